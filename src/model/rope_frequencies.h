// The frequencies of rotary embeddings as config.json scales them.
#pragma once

#include <cstdint>
#include <vector>

#include "rarefy/config.h"

namespace rarefy::model {

/// head_dim/2 values θ^(-2i/head_dim), scaled: kLinear divides all by `factor`; kLlama3 (Llama 3.1,
/// as in transformers' `_compute_llama3_parameters`) divides those with a wavelength above
/// original/low_freq_factor, keeps those below original/high_freq_factor, and interpolates between.
std::vector<double> rope_frequencies(const RopeConfig& rope, std::int64_t head_dim);

}  // namespace rarefy::model
