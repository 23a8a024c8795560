// Rows of an operator benchmark as JSON, tables and CSV files that keep the latest of each problem.
#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "cli/bench_ops_run.h"
#include "cli/verb.h"

namespace rarefy::bench {

/// What was asked, beside each row.
struct Context {
  std::string shape;  ///< "4096x14336"
  std::int64_t n = 1;
  double sparsity = 0;  ///< As it came out.
  std::string dtype, activations, pattern;
  std::string layout = "tokens";  ///< Of the activations: "tokens" or "features".
  int threads = 1;                ///< 0 on a GPU.
  std::string gpu;                ///< Its name; empty on the CPU.
  std::string date, commit;
};

/// The contract's keys, then the context's.
cli::OrderedJson row_to_json(const Row& row, const Context& context);

/// Columns that say which problem a row is of.
inline constexpr std::array kOpsProblem{"shape",       "n",       "sparsity", "dtype",
                                        "activations", "pattern", "threads",  "layout"};
/// … and by which method.
inline constexpr std::array kOpsKey{"shape",   "n",       "sparsity", "dtype",  "activations",
                                    "pattern", "threads", "layout",   "method", "format"};

/// Merges rows into the CSV file: a row with the same cells in the columns of `key` is replaced
/// (a cell that the file lacks or leaves empty is like any), others stay, but what was chosen for
/// the same problem before is so no longer. A new header rewrites the file with what both have in
/// common. Written through a temporary file. Throws `Error` (kIo,
/// kCorrupt).
void save_rows(const std::filesystem::path& file, const cli::OrderedJson& rows,
               std::span<const char* const> key = kOpsKey);

/// The problems that a CSV file of `save_rows` has.
class SavedProblems {
 public:
  /// A file that is not there has none. Throws `Error` (kIo, kCorrupt).
  explicit SavedProblems(const std::filesystem::path& file);
  /// Whether the context's commit has measured its problem.
  [[nodiscard]] bool has(const Context& context) const;

 private:
  std::vector<std::map<std::string, std::string>> rows_;
};

/// "nvidia-h200" of "NVIDIA H200": the folder of a GPU below bench/results.
std::string folder_name(std::string gpu);

/// "intel-r-xeon-r-processor-2c": the folder of this machine below bench/results.
std::string device_name();

}  // namespace rarefy::bench
