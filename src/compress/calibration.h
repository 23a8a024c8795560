// What calibration collects: token sequences, and what the weights of a layer see of them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rarefy/compress.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"
#include "rarefy/tokenizer.h"

namespace rarefy::compress {

/// `samples` runs of `context` tokens of one long stream, each from a random place, drawn with
/// `seed`: as the methods' authors draw from concatenated text. Runs may overlap. The same seed
/// gives the same places on every machine.
/// @throws Error when the stream is shorter than one run.
std::vector<std::span<const TokenId>> draw_samples(std::span<const TokenId> stream,
                                                   std::int64_t samples, std::int64_t context,
                                                   std::uint64_t seed);

/// Weights that read the same input share what is collected about it: q, k and v one key, gate and
/// up another; any other weight its own name.
std::string input_key(std::string_view weight_name);

/// A few of the inputs themselves, evenly spread over all tokens, to measure output errors with.
class InputSample {
 public:
  /// Keeps at most `kept` of `total` tokens to come.
  InputSample(std::int64_t inputs, std::int64_t total, std::int64_t kept);
  void add(ConstMatrixRef x);  ///< x: T×K f32
  [[nodiscard]] ConstMatrixRef rows() const {
    return matrix_ref(data_.data(), static_cast<std::int64_t>(data_.size()) / inputs_, inputs_);
  }

 private:
  std::int64_t inputs_, stride_, next_ = 0, seen_ = 0;
  std::vector<float> data_;
};

/// ‖(W-Ŵ)X‖² / ‖WX‖² over the tokens of `sample`; 0 when WX is.
double output_error(const RowSource& before, const RowSource& after, const InputSample& sample,
                    ThreadPool& pool);

}  // namespace rarefy::compress
