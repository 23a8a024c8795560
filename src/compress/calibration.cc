#include "compress/calibration.h"

#include <algorithm>
#include <random>

#include "base/check.h"
#include "compress/linear_algebra.h"

namespace rarefy::compress {

std::vector<std::span<const TokenId>> draw_samples(std::span<const TokenId> stream,
                                                   std::int64_t samples, std::int64_t context,
                                                   std::uint64_t seed) {
  const auto length = static_cast<std::int64_t>(stream.size());
  require(samples > 0, "calibration: expected at least one sample, got {}", samples);
  require(context > 0, "calibration: expected a positive context, got {}", context);
  require(length >= context, "calibration text: expected at least {} tokens, found {}", context,
          length);
  // std::uniform_int_distribution differs between libraries; a 64-bit remainder of the engine,
  // whose output the standard fixes, is biased by less than 2^-40.
  std::mt19937_64 engine(seed);
  const auto places = static_cast<std::uint64_t>(length - context + 1);
  std::vector<std::span<const TokenId>> runs;
  for (std::int64_t i = 0; i < samples; ++i)
    runs.push_back(stream.subspan(engine() % places, static_cast<std::size_t>(context)));
  return runs;
}

std::string input_key(std::string_view weight_name) {
  for (const std::string_view part : {"q_proj.weight", "k_proj.weight", "v_proj.weight"}) {
    if (weight_name.ends_with(part))
      return std::string(weight_name.substr(0, weight_name.size() - part.size())) + "qkv";
  }
  for (const std::string_view part : {"gate_proj.weight", "up_proj.weight"}) {
    if (weight_name.ends_with(part))
      return std::string(weight_name.substr(0, weight_name.size() - part.size())) + "gate_up";
  }
  return std::string(weight_name);
}

InputSample::InputSample(std::int64_t inputs, std::int64_t total, std::int64_t kept)
    : inputs_(inputs), stride_(std::max<std::int64_t>(1, (total + kept - 1) / kept)) {
  data_.reserve(static_cast<std::size_t>(((total + stride_ - 1) / stride_) * inputs_));
}

void InputSample::add(ConstMatrixRef x) {
  for (; next_ < seen_ + x.rows; next_ += stride_) {
    const float* const row = x.row<float>(next_ - seen_);
    data_.insert(data_.end(), row, row + x.cols);
  }
  seen_ += x.rows;
}

double output_error(const RowSource& before, const RowSource& after, const InputSample& sample,
                    ThreadPool& pool) {
  const SingleThreadedBlas one_thread;
  const ConstMatrixRef x = sample.rows();
  const std::int64_t k = before.cols();
  constexpr std::int64_t kRows = 64;
  const std::int64_t panels = (before.rows() + kRows - 1) / kRows;
  std::vector<double> lost(static_cast<std::size_t>(panels));
  std::vector<double> whole(static_cast<std::size_t>(panels));
  pool.parallel_dynamic(panels, 1, [&](std::int64_t first, std::int64_t last) {
    std::vector<float> raw(static_cast<std::size_t>(kRows * k));
    std::vector<float> old_rows(raw.size());
    std::vector<float> change(raw.size());
    std::vector<float> outputs(static_cast<std::size_t>(x.rows * kRows));
    const auto energy = [&](const std::vector<float>& weights, std::int64_t rows) {
      multiply_transposed(x.rows, rows, k, x.row<float>(0), weights.data(), outputs.data());
      double sum = 0;
      for (std::int64_t i = 0; i < x.rows * rows; ++i) {
        const double y = outputs[static_cast<std::size_t>(i)];
        sum += y * y;
      }
      return sum;
    };
    for (std::int64_t panel = first; panel < last; ++panel) {
      const std::int64_t begin = panel * kRows;
      const std::int64_t end = std::min(before.rows(), begin + kRows);
      const auto count = static_cast<std::size_t>((end - begin) * k);
      before.read_rows(begin, end, raw.data());
      convert_elements(raw.data(), before.dtype(), old_rows.data(), DType::kF32, count);
      after.read_rows(begin, end, raw.data());
      convert_elements(raw.data(), after.dtype(), change.data(), DType::kF32, count);
      for (std::size_t i = 0; i < count; ++i) change[i] = old_rows[i] - change[i];
      lost[static_cast<std::size_t>(panel)] = energy(change, end - begin);
      whole[static_cast<std::size_t>(panel)] = energy(old_rows, end - begin);
    }
  });
  double difference = 0;
  double total = 0;
  for (std::size_t i = 0; i < lost.size(); ++i) {
    difference += lost[i];
    total += whole[i];
  }
  return total > 0 ? difference / total : 0;
}

}  // namespace rarefy::compress
