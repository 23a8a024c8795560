#pragma once

#include <gtest/gtest.h>

#include "rarefy/c.h"
#include "shared_data.h"

namespace rarefy::testing {

/// tiny-lm, loaded without measuring.
class ModelHandle {
 public:
  ModelHandle() {
    rarefy_load_options options = {sizeof(options)};
    options.no_measure = 1;
    const std::string directory = source_path("examples/models/tiny-lm").string();
    EXPECT_EQ(rarefy_model_load(directory.c_str(), &options, &model_), RAREFY_OK)
        << rarefy_last_error();
  }
  ~ModelHandle() { rarefy_model_free(model_); }
  ModelHandle(const ModelHandle&) = delete;
  ModelHandle& operator=(const ModelHandle&) = delete;
  [[nodiscard]] rarefy_model* get() const { return model_; }

 private:
  rarefy_model* model_ = nullptr;
};

}  // namespace rarefy::testing
