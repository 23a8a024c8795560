// Pruning: magnitude, Wanda, SparseGPT; unstructured, N:M and block masks; recipes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rarefy/checkpoint.h"
#include "rarefy/error.h"
#include "rarefy/progress.h"
#include "rarefy/threads.h"

namespace rarefy {

enum class PruneMethod : std::uint8_t {
  kMagnitude,  ///< Keeps large |w|.
  kWanda,      ///< Keeps large |w_ij|·‖x_j‖₂ (Sun et al. 2023).
  kSparseGpt,  ///< Optimal brain surgeon by columns, the weights left make up for those that went
               ///< (Frantar & Alistarh 2023).
};

const char* to_string(PruneMethod method);  ///< "magnitude", "wanda", "sparsegpt"
std::optional<PruneMethod> parse_prune_method(std::string_view name);

/// Which weights compete for the same share of zeros.
enum class PruneScope : std::uint8_t {
  kDefault,  ///< The method's own: magnitude kTensor, Wanda kRow, SparseGPT its column blocks.
  kTensor,
  kRow,
  kGlobal,  ///< All targeted tensors together; magnitude only.
};

const char* to_string(PruneScope scope);  ///< "default", "tensor", "row", "global"
std::optional<PruneScope> parse_prune_scope(std::string_view name);

/// Shape of the mask: unstructured; n kept of every m consecutive inputs; or whole blocks of rows ×
/// cols.
struct PrunePattern {
  enum class Kind : std::uint8_t { kUnstructured, kNm, kBlock } kind = Kind::kUnstructured;
  std::int64_t a = 0, b = 0;  ///< n:m, or rows × cols.
  /// "unstructured" (or "0:0"), "2:4", "4:8", "32x32"; throws `Error` for anything else.
  static PrunePattern parse(std::string_view text);
  [[nodiscard]] std::string name() const;
  /// 1 - n/m for n:m, which leaves no other choice; otherwise nothing.
  [[nodiscard]] std::optional<double> implied_sparsity() const;
  /// Whether a weight of this shape can be cut into whole groups or blocks.
  [[nodiscard]] Support fits(std::int64_t rows, std::int64_t cols) const;
  bool operator==(const PrunePattern&) const = default;
};

/// One step of a recipe: a method for the weights that it targets.
struct PruneStep {
  PruneMethod method = PruneMethod::kMagnitude;
  PruneScope scope = PruneScope::kDefault;
  PrunePattern pattern;
  double sparsity = 0.5;  ///< Share of zeros; for N:M it follows from the pattern.
  std::vector<std::string> targets{
      "Linear"};  ///< Module names, suffix-matched, "re:…" regular expressions, or "Linear".
  std::vector<std::string> ignore{"lm_head"};
  double dampening = 0.01;        ///< SparseGPT: share of the mean diagonal added to the Hessian.
  std::int64_t block_size = 128;  ///< SparseGPT: columns updated lazily together.
};

/// A list of steps in llm-compressor's YAML conventions (`SparseGPTModifier`,
/// `WandaPruningModifier`, `MagnitudeModifier`; `sparsity`, `mask_structure`, `targets`, `ignore`,
/// `block_size`, `dampening_frac`).
struct Recipe {
  std::vector<PruneStep> steps;
  /// Throws `Error` with file and line for unknown modifiers, keys or values.
  static Recipe load(const std::filesystem::path& path);
  static Recipe parse(std::string_view yaml, const std::string& file_name);
  [[nodiscard]] std::string to_yaml() const;
};

struct Calibration {
  std::string text;            ///< May be empty for magnitude.
  std::int64_t samples = 128;  ///< Sequences drawn from the text.
  std::int64_t context = 0;    ///< Tokens a sequence; 0: the model's context, at most 2048.
  std::uint64_t seed = 0;
};

struct PrunedTensor {
  std::string name;
  std::int64_t rows = 0, cols = 0, nnz = 0;
  /// ‖(W-Ŵ)X‖² / ‖WX‖² over a sample of the calibration inputs where the recipe calibrates and the
  /// weight is in a decoder layer; otherwise ‖W-Ŵ‖² / ‖W‖².
  double error = 0;
};

struct PruneReport {
  std::vector<PrunedTensor> tensors;
  double seconds = 0;
  std::size_t peak_bytes = 0;  ///< Peak resident set of the process while pruning.
};

struct PruneOptions {
  Recipe recipe;
  Calibration calibration;
  Storage storage = Storage::kSparseBitmask;  ///< How pruned weights are stored; those that would
                                              ///< grow stay dense.
  bool overwrite = false;
  Progress* progress = nullptr;
};

/// Prunes the model in `from` and writes it to `to`, layer by layer: one layer and the calibration
/// activations are in memory at a time. Weights that are not targeted are copied bit for bit.
/// Throws `Error`; an older checkpoint in `to` stays until all is written.
PruneReport prune(const std::filesystem::path& from, const std::filesystem::path& to,
                  const PruneOptions& options, ThreadPool& pool = default_pool());

}  // namespace rarefy
