// Arguments that Python gives as text.
#pragma once

#include <string>
#include <string_view>

#include "base/check.h"
#include "rarefy/matrix.h"
#include "rarefy/spmm.h"

namespace rarefy::python {

inline DType dtype_argument(std::string_view text, const char* name) {
  const std::optional<DType> dtype = parse_dtype(text);
  require(dtype.has_value() && is_compute_dtype(*dtype), "{}: expected f32, f16 or bf16, got '{}'",
          name, text);
  return *dtype;
}

inline FormatSpec format_argument(std::string_view text) {
  const std::optional<FormatSpec> spec = FormatSpec::parse(text);
  require(spec.has_value(),
          "format: expected a format such as dense, bitmap, csr16, sell8, 2:4 or bsr16x32, got "
          "'{}'",
          text);
  return *spec;
}

inline Activation activation_argument(std::string_view text) {
  for (const Activation activation :
       {Activation::kNone, Activation::kRelu, Activation::kGelu, Activation::kSilu}) {
    if (text == to_string(activation)) return activation;
  }
  fail(ErrorKind::kInvalidArgument, "activation: expected none, relu, gelu or silu, got '{}'",
       text);
}

inline Layout layout_argument(std::string_view text) {
  if (text == "token") return Layout::kTokenMajor;
  require(text == "feature", "layout: expected token or feature, got '{}'", text);
  return Layout::kFeatureMajor;
}

inline Precision precision_argument(std::string_view text) {
  if (text == "exact") return Precision::kExact;
  require(text == "bf16", "precision: expected exact or bf16, got '{}'", text);
  return Precision::kBf16;
}

}  // namespace rarefy::python
