// For tests that run on a GPU.
#pragma once

#include <gtest/gtest.h>

#include "cuda/compiler.h"
#include "cuda/device.h"
#include "cuda/driver.h"

#define RAREFY_SKIP_WITHOUT_GPU()                                                 \
  if (::rarefy::cuda::Device::count() == 0)                                       \
    GTEST_SKIP() << "no GPU: " << ::rarefy::cuda::driver_state().error;           \
  if (const auto& state = ::rarefy::cuda::compiler_state(); !state.error.empty()) \
  GTEST_SKIP() << state.error
