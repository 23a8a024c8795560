// For tests that compile device code: NVRTC is no dependency of the project.
#pragma once

#include <gtest/gtest.h>

#include "cuda/compiler.h"

#define RAREFY_SKIP_WITHOUT_NVRTC()                                               \
  if (const auto& state = ::rarefy::cuda::compiler_state(); !state.error.empty()) \
  GTEST_SKIP() << state.error
