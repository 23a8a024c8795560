#include <algorithm>
#include <optional>

#include "base/check.h"
#include "io/config_json.h"

namespace rarefy::io {
namespace {

constexpr double kLargestTheta = 1e12;
constexpr double kLargestFactor = 1e6;
constexpr std::int64_t kMostPositions = std::int64_t{1} << 30;

/// The one set of parameters: transformers 5 may give a set for each layer type, which Rarefy runs
/// as long as they agree.
JsonFields only_set(const JsonFields& parameters) {
  const Json& json = parameters.json();
  const bool nested = !json.empty() && std::all_of(json.begin(), json.end(), [](const Json& value) {
    return value.is_object();
  });
  if (!nested) return parameters;
  for (const Json& value : json) {
    if (value != *json.begin()) {
      fail(ErrorKind::kUnsupported,
           "{}: expected the same rotary embedding in all layers, found {}", parameters.where(),
           excerpt(json));
    }
  }
  return {*json.begin(), parameters.where() + ": " + json.begin().key()};
}

RopeType rope_type(const JsonFields& parameters) {
  auto name = parameters.maybe_string("rope_type");
  if (!name) name = parameters.maybe_string("type");
  if (!name || *name == "default") return RopeType::kDefault;
  if (*name == "linear") return RopeType::kLinear;
  if (*name == "llama3") return RopeType::kLlama3;
  fail(ErrorKind::kUnsupported, "{}: expected rope_type default, linear or llama3, found '{}'",
       parameters.where(), *name);
}

double required_number(const JsonFields& fields, const char* key, double least, double most) {
  const auto number = fields.maybe_number(key, least, most);
  if (!number) fields.mismatch(key, "a number");
  return *number;
}

}  // namespace

RopeConfig rope_config(const JsonFields& config, std::int64_t max_positions) {
  RopeConfig rope;
  if (const auto theta = config.maybe_number("rope_theta", 1.0, kLargestTheta)) rope.theta = *theta;
  // As in transformers, the older spelling goes before the newer when both are there.
  auto given = config.maybe_object("rope_scaling");
  if (!given || given->json().empty()) given = config.maybe_object("rope_parameters");
  if (!given || given->json().empty()) return rope;

  const JsonFields parameters = only_set(*given);
  if (const auto theta = parameters.maybe_number("rope_theta", 1.0, kLargestTheta)) {
    rope.theta = *theta;
  }
  if (const auto partial = parameters.maybe_number("partial_rotary_factor", 0.0, 1.0);
      partial && *partial != 1.0) {
    fail(ErrorKind::kUnsupported, "{}: expected partial_rotary_factor 1, found {}",
         parameters.where(), *partial);
  }
  rope.type = rope_type(parameters);
  if (rope.type == RopeType::kDefault) return rope;
  rope.factor = required_number(parameters, "factor", 1.0, kLargestFactor);
  if (rope.type == RopeType::kLinear) return rope;

  rope.low_freq_factor = required_number(parameters, "low_freq_factor", 1e-6, kLargestFactor);
  rope.high_freq_factor = required_number(parameters, "high_freq_factor", 1e-6, kLargestFactor);
  if (rope.low_freq_factor >= rope.high_freq_factor) {
    fail(ErrorKind::kCorrupt, "{}: expected low_freq_factor < high_freq_factor, found {} and {}",
         parameters.where(), rope.low_freq_factor, rope.high_freq_factor);
  }
  constexpr const char* kOriginal = "original_max_position_embeddings";
  auto original = parameters.maybe_integer(kOriginal, 1, kMostPositions);
  if (!original) original = config.maybe_integer(kOriginal, 1, kMostPositions);
  rope.original_max_position = original.value_or(max_positions);
  return rope;
}

}  // namespace rarefy::io
