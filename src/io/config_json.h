// config.json to ModelConfig, apart from where the text comes from.
#pragma once

#include "base/json.h"
#include "io/json_fields.h"
#include "rarefy/config.h"

namespace rarefy::io {

/// `generation` is generation_config.json, or nullptr where a folder has none.
ModelConfig model_config(const JsonFields& config, const JsonFields* generation);

/// The rotary embedding: `rope_parameters` (transformers 5; for each layer type or for all),
/// `rope_scaling` with `rope_type` or `type`, `rope_theta`.
RopeConfig rope_config(const JsonFields& config, std::int64_t max_positions);

}  // namespace rarefy::io
