// A verb of the command is one file: it declares its options and says what to do with them.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "rarefy/model.h"
#include "rarefy/planner.h"
#include "rarefy/progress.h"

namespace rarefy::cli {

using OrderedJson = nlohmann::ordered_json;

/// Options that every verb takes, and what they set up.
struct Session {
  bool json = false;
  bool quiet = false;
  int threads = 0;
  std::string isa;
  std::string cache_dir;
  std::string device = "auto";

  /// Applies threads, instruction set and device; called once, before the verb runs.
  void apply() const;
  [[nodiscard]] Planner make_planner(bool freeze = false) const;
  /// Loads a model with plans of its own planner, which is gone (with its measuring buffers) when
  /// the model is there.
  [[nodiscard]] std::unique_ptr<Model> load_model(const std::string& directory,
                                                  const LoadOptions& options) const;
  [[nodiscard]] std::unique_ptr<Model> load_model(const ModelConfig& config,
                                                  std::shared_ptr<const Checkpoint> checkpoint,
                                                  const LoadOptions& options) const;
  /// Draws on stderr when that is a terminal and nobody asked for quiet; otherwise silent.
  [[nodiscard]] Progress& progress() const;
};

/// Options of the verbs that load a model to run it.
struct ModelFlags {
  std::string directory;
  std::vector<std::string> formats, kernels;
  std::string activations = "auto";
  std::string memory;
  std::optional<double> weight_memory;
  std::vector<std::int64_t>
      plan_for;  ///< Tokens at once, the first counting most; empty: the verb's own.
  bool no_measure = false;

  void add_to(CLI::App& app);
  /// Where the model is to run; throws for flags that contradict it.
  [[nodiscard]] Device device(const Session& session) const;
  /// @param from_folder whether `directory` must be one
  [[nodiscard]] LoadOptions load_options(const Session& session, bool from_folder = true) const;
};

/// Plans for `tokens` at once: the first has weight 1, each further one 0.05, as decode is to
/// prefill.
std::vector<Workload> workloads_for(const std::vector<std::int64_t>& tokens);

/// Checks that a folder or file exists, in Rarefy's words.
void require_path(const std::string& path, const char* flag);

/// Checks that a folder exists, which a verb is to load as a model.
void require_model_folder(const std::string& path, const char* flag);

/// "4GiB", "512M", "1000000": bytes, powers of 1024. Throws `Error`.
std::size_t parse_bytes(const std::string& text, const char* flag);

/// The one JSON document of a verb, on stdout.
void print_json(const OrderedJson& document);

/// Rows of the same keys as a CSV table on stdout; lists within rows are left out.
void print_csv(const OrderedJson& rows);

void add_inspect(CLI::App& app, Session& session);
void add_prune(CLI::App& app, Session& session);
void add_tune(CLI::App& app, Session& session);
void add_explain(CLI::App& app, Session& session);
void add_perplexity(CLI::App& app, Session& session);
void add_generate(CLI::App& app, Session& session);
void add_bench(CLI::App& app, Session& session);
void add_convert(CLI::App& app, Session& session);
void add_doctor(CLI::App& app, Session& session);
void add_calibrate(CLI::App& app, Session& session);
void add_report(CLI::App& app, Session& session);
void add_completion(CLI::App& app, Session& session);

}  // namespace rarefy::cli
