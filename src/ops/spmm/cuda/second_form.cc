#include "ops/spmm/cuda/second_form.h"

#include <algorithm>

namespace rarefy::gpu {
namespace {

/// Of the dense product's time: what blocks must be estimated at to be worth their memory.
constexpr double kBlocksPay = 0.8;

}  // namespace

std::vector<SecondForm> second_forms(std::size_t few_bytes, const FormCost& dense,
                                     std::span<const FormCost> blocks, double weight_memory) {
  const auto fits = [&](const FormCost& form) {
    return static_cast<double>(few_bytes) + form.bytes <= weight_memory * dense.bytes;
  };
  std::vector<SecondForm> forms;
  if (std::ranges::any_of(
          blocks, [&](const FormCost& b) { return fits(b) && b.us < kBlocksPay * dense.us; }))
    forms.push_back(SecondForm::kBlocks);
  if (fits(dense)) forms.push_back(SecondForm::kDense);
  return forms;
}

Passes::Passes(std::int64_t tokens_a_pass, std::int64_t n, double us_for_n)
    : tokens_(tokens_a_pass), n_(n), a_pass_us_(us_for_n / static_cast<double>(count(n))) {}

std::int64_t Passes::count(std::int64_t n) const {
  return (n + tokens_ - 1) / tokens_;
}

double Passes::us(std::int64_t n) const {
  return a_pass_us_ * static_cast<double>(count(n));
}

std::vector<std::int64_t> Passes::starts(std::int64_t most) const {
  std::vector<std::int64_t> tokens;
  for (std::int64_t n = count(n_) * tokens_ + 1; n <= most; n += tokens_) tokens.push_back(n);
  return tokens;
}

double roofline_us(std::int64_t n, double few_us, std::int64_t many, double many_us) {
  return std::max(few_us, many_us * static_cast<double>(n) / static_cast<double>(many));
}

std::optional<std::int64_t> first_faster(std::span<const std::int64_t> tokens, const Passes& few,
                                         const std::function<double(std::int64_t)>& other_us) {
  for (const std::int64_t n : tokens)
    if (other_us(n) < few.us(n)) return n;
  return std::nullopt;
}

}  // namespace rarefy::gpu
