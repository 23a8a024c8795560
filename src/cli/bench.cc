// rarefy bench: tokens a second of a whole model, in llama-bench's conventions; `bench ops` times
// single operators.
#include <fmt/format.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <functional>
#include <optional>
#include <random>

#include "base/check.h"
#include "base/peak_memory.h"
#include "cli/bench_ops.h"
#include "cli/bench_ops_rows.h"
#include "cli/bench_ops_weights.h"
#include "cli/numbers.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cli/version.h"
#include "model/random_checkpoint.h"
#include "rarefy/cpu.h"
#include "rarefy/generate.h"
#include "rarefy/threads.h"

namespace rarefy::cli {
namespace {

struct Flags {
  ModelFlags model;
  std::vector<std::int64_t> prompt{512}, gen{128};
  int repetitions = 5;
  std::int64_t batch = 512;
  std::int64_t sequences = 1;
  std::string output = "md";
  std::string random, pattern, workdir, save;
  bool save_given = false, parts = false;
  std::vector<double> sparsities{0.0};
};

/// "pp512", "tg128", "8xtg128".
std::string test_name(std::int64_t prompt, std::int64_t gen, std::int64_t sequences) {
  if (prompt > 0) return "pp" + std::to_string(prompt);
  return (sequences > 1 ? std::to_string(sequences) + "x" : std::string()) + "tg" +
         std::to_string(gen);
}

/// One line of the result: a prompt length or a number of generated tokens.
struct Test {
  std::int64_t prompt = 0, gen = 0;

  std::int64_t sequences = 1;  ///< That generate at once.
  std::vector<double> seconds = {};

  [[nodiscard]] std::string name() const { return test_name(prompt, gen, sequences); }
  [[nodiscard]] double tokens() const {
    return static_cast<double>(prompt > 0 ? prompt : gen * sequences);
  }
};

std::pair<double, double> mean_and_deviation(const std::vector<double>& values) {
  double mean = 0;
  for (double v : values) mean += v / static_cast<double>(values.size());
  double square = 0;
  for (double v : values) square += (v - mean) * (v - mean);
  return {mean,
          values.size() > 1 ? std::sqrt(square / static_cast<double>(values.size() - 1)) : 0.0};
}

/// Random ids: what is written does not change the work.
std::vector<TokenId> random_ids(std::int64_t count, std::int64_t vocabulary) {
  std::mt19937_64 random(1);
  std::vector<TokenId> ids(static_cast<std::size_t>(count));
  for (TokenId& id : ids)
    id = static_cast<TokenId>(random() % static_cast<std::uint64_t>(vocabulary));
  return ids;
}

double run_once(Model& model, const Test& test, std::int64_t batch) {
  const std::int64_t positions = std::max<std::int64_t>(test.prompt, test.gen);
  const std::int64_t count = test.prompt > 0 ? 1 : test.sequences;
  std::vector<std::unique_ptr<KvCache>> caches;
  std::vector<KvCache*> all;
  for (std::int64_t i = 0; i < count; ++i) {
    caches.push_back(std::make_unique<KvCache>(model.config(), positions, model.kv_dtype()));
    all.push_back(caches.back().get());
  }
  const std::vector<TokenId> ids = random_ids(positions, model.config().vocab_size);
  std::vector<TokenId> next(static_cast<std::size_t>(count));
  const auto start = std::chrono::steady_clock::now();
  if (test.prompt > 0) {
    model.forward(ids, *all.front(), Model::Logits::kLast, batch);
  } else {
    for (const TokenId& id : ids) {
      std::fill(next.begin(), next.end(), id);
      model.decode_greedy(next, all);
    }
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// What a model takes is the peak from here on; freed memory goes back to the system first. False
/// where the peak cannot be reset.
bool begin_peak() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
  return reset_peak_resident();
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  return text;
}

OrderedJson as_json(const Test& test, const Model& model, const Flags& flags,
                    const std::string& name, double load_s, std::optional<std::size_t> peak_bytes) {
  std::vector<double> ns;
  std::vector<double> rates;
  for (double s : test.seconds) {
    ns.push_back(std::round(s * 1e9));
    rates.push_back(test.tokens() / s);
  }
  const auto [avg_ns, dev_ns] = mean_and_deviation(ns);
  const auto [avg_ts, dev_ts] = mean_and_deviation(rates);
  const std::vector<std::string>& kernels =
      flags.model.kernels.empty() ? flags.model.formats : flags.model.kernels;
  // In one column, so that rows of plain runs stay beside these in files that lack another.
  std::string restriction = kernels.empty() ? "any" : fmt::format("{}", fmt::join(kernels, " "));
  if (flags.model.weight_memory)
    restriction += fmt::format(" weight-memory={}", *flags.model.weight_memory);
  const bool on_gpu = !model.gpu().empty();
  const std::string precision = on_gpu                              ? to_string(model.kv_dtype())
                                : flags.model.activations == "bf16" ? "bf16"
                                                                    : "f32";
  const std::string kv = to_string(model.kv_dtype());
  return {{"build_commit", commit()},
          {"build_number", 0},
          {"cpu_info", cpu_info().brand},
          {"gpu_info", model.gpu()},
          {"backends", on_gpu ? "CUDA" : std::string("CPU (") + to_string(active_isa()) + ")"},
          {"model_filename", name},
          {"model_type", std::string(to_string(model.config().family)) + " " +
                             human_count(static_cast<double>(model.config().parameters()))},
          {"model_size", model.weight_bytes()},
          {"model_n_params", model.config().parameters()},
          {"n_batch", flags.batch},
          {"n_ubatch", flags.batch},
          {"n_threads", default_pool().size()},
          {"type_k", kv},
          {"type_v", kv},
          {"n_gpu_layers", on_gpu ? model.config().layers : 0},
          {"use_mmap", true},
          {"n_prompt", test.prompt},
          {"n_gen", test.gen},
          {"n_depth", 0},
          {"n_sequences", test.sequences},
          {"test_time", utc_now()},
          {"avg_ns", static_cast<std::int64_t>(avg_ns)},
          {"stddev_ns", static_cast<std::int64_t>(dev_ns)},
          {"avg_ts", avg_ts},
          {"stddev_ts", dev_ts},
          {"samples_ns", ns},
          {"samples_ts", rates},
          {"activations", precision},
          {"kernels", restriction},
          {"dense_size", model.dense_weight_bytes()},
          {"peak_rss", peak_bytes ? OrderedJson(*peak_bytes) : OrderedJson(nullptr)},
          {"load_s", load_s}};
}

void print_table(const OrderedJson& rows, bool markdown) {
  Table table({"model", "size", "of dense", "params", "backend", "threads", "test", "t/s"});
  for (const OrderedJson& row : rows) {
    const double size = row["model_size"].get<double>();
    const std::string test = test_name(row["n_prompt"], row["n_gen"], row["n_sequences"]);
    char rate[64];
    std::snprintf(rate, sizeof rate, "%.2f ± %.2f", row["avg_ts"].get<double>(),
                  row["stddev_ts"].get<double>());
    table.add({std::filesystem::path(row["model_filename"].get<std::string>()).filename().string(),
               human_bytes(size), percent(size / row["dense_size"].get<double>()),
               human_count(row["model_n_params"].get<double>()), row["backends"].get<std::string>(),
               std::to_string(row["n_threads"].get<int>()), test, rate});
  }
  std::fputs(markdown ? table.markdown().c_str() : table.text().c_str(), stdout);
}

/// Unless told otherwise, plans fit what is measured: single tokens first, then the first prompt.
LoadOptions load_options(const Flags& flags, const Session& session) {
  LoadOptions options = flags.model.load_options(session, flags.random.empty());
  if (!flags.model.plan_for.empty()) return options;
  const std::int64_t prompt = flags.prompt.empty() ? 0 : flags.prompt.front();
  std::vector<std::int64_t> tokens{flags.sequences};
  if (prompt > 1) tokens.push_back(std::min(flags.batch, prompt));
  options.workloads = workloads_for(tokens);
  return options;
}

std::vector<Test> tests_of(const Flags& flags) {
  std::vector<Test> tests;
  for (std::int64_t p : flags.prompt) {
    if (p > 0) tests.push_back({.prompt = p});
  }
  for (std::int64_t n : flags.gen) {
    if (n > 0) tests.push_back({.gen = n, .sequences = flags.sequences});
  }
  require(!tests.empty(), "-p, -n: expected at least one positive number of tokens");
  return tests;
}

/// Where the time of a decode step goes, at the longest position that was generated.
void print_parts(const Model& model, const Flags& flags) {
  const std::int64_t position = *std::max_element(flags.gen.begin(), flags.gen.end()) - 1;
  const std::vector<DeviceStepPart> parts =
      model.time_step(flags.sequences, std::max<std::int64_t>(0, position));
  if (parts.empty()) return;
  Table table({"kernels of a step", "launches", "us", "share", "us each"});
  for (const DeviceStepPart& part : parts) {
    table.add({part.name, std::to_string(part.launches), fmt::format("{:.1f}", part.us),
               percent(part.us / parts.front().us),
               fmt::format("{:.2f}", part.us / static_cast<double>(part.launches))});
  }
  std::fputs(table.text().c_str(), stderr);
}

using LoadModel = std::function<std::unique_ptr<Model>(const LoadOptions&)>;

/// All tests on the model of `flags`, which rows call `name`.
void bench_model(const Flags& flags, const Session& session, const std::string& name,
                 const LoadModel& load_from, OrderedJson& rows) {
  std::vector<Test> tests = tests_of(flags);
  const LoadOptions load = load_options(flags, session);
  std::unique_ptr<Model> model;
  double load_s = 0;
  bool counts_peak = false;
  const auto load_model = [&] {
    model.reset();
    counts_peak = begin_peak();
    const auto start = std::chrono::steady_clock::now();
    model = load_from(load);
    load_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  load_model();
  // The first load measures plans; load_s is that of a second one, with the plans at hand, as users
  // meet it every day. On a GPU a handful of searches is lost in the packing.
  if (model->gpu().empty()) load_model();
  for (Test& test : tests) {
    run_once(*model,
             {.prompt = std::min(test.prompt, flags.batch),
              .gen = std::min<std::int64_t>(test.gen, 4),
              .sequences = test.sequences},
             flags.batch);  // Warm-up
    for (int r = 0; r < flags.repetitions; ++r) {
      session.progress().update("bench", r, flags.repetitions, name + " " + test.name());
      test.seconds.push_back(run_once(*model, test, flags.batch));
    }
    session.progress().update("bench", 1, 1, "");
    rows.push_back(as_json(test, *model, flags, name, load_s,
                           counts_peak ? peak_resident_bytes() : std::nullopt));
  }
  if (flags.parts) print_parts(*model, flags);
}

/// A folder below the scratch folder that is gone when the benchmark is.
class TemporaryModel {
 public:
  TemporaryModel(const Flags& flags, const RandomCheckpoint& model, const Session& session) {
    std::string path = (flags.workdir.empty() ? std::filesystem::temp_directory_path()
                                              : std::filesystem::path(flags.workdir)) /
                       "rarefy-bench-XXXXXX";
    if (mkdtemp(path.data()) == nullptr)
      fail(ErrorKind::kIo, "--workdir: could not create a folder like {}", path);
    directory_ = path;
    try {
      write_random_checkpoint(directory_, model, default_pool(), session.progress());
    } catch (...) {
      std::filesystem::remove_all(directory_);
      throw;
    }
  }
  ~TemporaryModel() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  TemporaryModel(const TemporaryModel&) = delete;
  TemporaryModel& operator=(const TemporaryModel&) = delete;
  [[nodiscard]] std::string directory() const { return directory_.string(); }

 private:
  std::filesystem::path directory_;
};

/// On a GPU random weights are made as they are read: they lie in no file, so that a model larger
/// than the host's memory can be measured. The CPU reads its from a file, as it does any other.
bool runs_on_gpu(const Flags& flags, const Session& session) {
  const Device device = flags.model.device(session);
  return device == Device::kCuda || (device == Device::kAuto && cuda_support().ok);
}

/// Keeps the rows beside those of `bench ops`, without the single samples.
void save_models(const Flags& flags, OrderedJson rows) {
  constexpr std::array kKey{"model_filename", "activations", "kernels",    "n_threads",
                            "n_prompt",       "n_gen",       "n_sequences"};
  for (OrderedJson& row : rows) {
    row.erase("samples_ns");
    row.erase("samples_ts");
  }
  const std::filesystem::path root = flags.save.empty() ? "bench/results" : flags.save;
  const std::string gpu = rows.empty() ? "" : rows[0]["gpu_info"].get<std::string>();
  const std::string device = gpu.empty() ? bench::device_name() : bench::folder_name(gpu);
  bench::save_rows(root / device / "models.csv", rows, kKey);
}

/// "uniform", "blockskew", "rowskew" or the shape of blocks that are zero, "64x64".
void set_pattern(const std::string& text, RandomCheckpoint& random) {
  constexpr std::int64_t kLargest = 99999;
  if (text.empty() || text == "uniform") return;
  if (text == "blockskew" || text == "rowskew") {
    random.pattern = text == "blockskew" ? ZeroPattern::kBlockSkew : ZeroPattern::kRowSkew;
    return;
  }
  const auto shape = bench::parse_pair(text, 'x');
  require(shape && shape->first <= kLargest && shape->second <= kLargest,
          "--pattern: expected uniform, blockskew, rowskew or blocks such as 64x64, got '{}'",
          text);
  random.block_rows = static_cast<int>(shape->first);
  random.block_cols = static_cast<int>(shape->second);
}

void run(const Flags& flags, const Session& session) {
  OrderedJson rows = OrderedJson::array();
  if (flags.random.empty()) {
    bench_model(
        flags, session, flags.model.directory,
        [&](const LoadOptions& load) { return session.load_model(flags.model.directory, load); },
        rows);
  } else {
    RandomCheckpoint random{.config = random_shape(flags.random)};
    set_pattern(flags.pattern, random);
    for (double sparsity : flags.sparsities) {
      random.sparsity = sparsity;
      const std::string name = fmt::format("random-{}-{:.0f}%{}{}", flags.random, 100 * sparsity,
                                           flags.pattern.empty() ? "" : "-", flags.pattern);
      if (runs_on_gpu(flags, session)) {
        const auto checkpoint = random_checkpoint(random);
        bench_model(
            flags, session, name,
            [&](const LoadOptions& load) {
              return session.load_model(random.config, checkpoint, load);
            },
            rows);
        continue;
      }
      const TemporaryModel model(flags, random, session);
      bench_model(
          flags, session, name,
          [&](const LoadOptions& load) { return session.load_model(model.directory(), load); },
          rows);
    }
  }
  if (flags.save_given) save_models(flags, rows);
  if (session.json || flags.output == "json") return print_json(rows);
  if (flags.output == "jsonl") {
    for (const OrderedJson& row : rows) std::printf("%s\n", row.dump().c_str());
  } else if (flags.output == "csv") {
    print_csv(rows);
  } else {
    print_table(rows, !stdout_is_terminal());
  }
}

}  // namespace

void add_bench(CLI::App& app, Session& session) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand(
      "bench",
      "Measure tokens a second (pp: prompt, tg: generation); `bench ops` measures operators");
  verb->fallthrough();
  flags->model.add_to(*verb);
  verb->get_option("--model")->required(false);
  verb->add_option("-p,--n-prompt", flags->prompt, "Prompt lengths (default: 512)")
      ->delimiter(',')
      ->check(whole(0))
      ->type_name("N,…");
  verb->add_option("-n,--n-gen", flags->gen, "Numbers of generated tokens (default: 128)")
      ->delimiter(',')
      ->check(whole(0))
      ->type_name("N,…");
  verb->add_option("-r,--repetitions", flags->repetitions, "Runs of each test")
      ->check(whole(1, 1000))
      ->capture_default_str()
      ->type_name("N");
  verb->add_option("-b,--batch-size", flags->batch, "Tokens of a prompt processed at once")
      ->check(whole(1))
      ->capture_default_str()
      ->type_name("N");
  verb->add_option("-s,--sequences", flags->sequences, "Sequences that generate at once")
      ->check(whole(1))
      ->capture_default_str()
      ->type_name("N");
  verb->add_option("-o,--output", flags->output, "md, csv, json or jsonl")
      ->check(CLI::IsMember({"md", "csv", "json", "jsonl"}))
      ->capture_default_str();
  CLI::Option* random = verb->add_option("--random", flags->random,
                                         "In place of -m: a Llama of this shape with random "
                                         "weights (tiny, 100m, 1b, 3b, 7b, 8b, "
                                         "27b)")
                            ->type_name("SHAPE");
  verb->add_option("--sparsity", flags->sparsities, "With --random: shares of zeros")
      ->delimiter(',')
      ->check(number(0, 0.99))
      ->type_name("S,…");
  verb->add_option(
          "--pattern", flags->pattern,
          "With --random: where zeros lie: uniform (default), blockskew (64x64 blocks of 30 "
          "to 99 %), rowskew, or in whole blocks of a shape such as 64x64")
      ->needs(random)
      ->type_name("PATTERN");
  verb->add_option(
          "--workdir", flags->workdir,
          "With --random on the CPU: where its checkpoint lies meanwhile (default: the temporary "
          "folder)")
      ->type_name("DIR");
  verb->add_flag("--parts", flags->parts,
                 "On a GPU: also say, on stderr, where the time of a generated token goes");
  verb->add_option("--save", flags->save,
                   "Merge the rows into DIR/<device>/models.csv (default DIR: bench/results)")
      ->expected(0, 1)
      ->type_name("[DIR]");
  verb->footer(
      "Examples:\n  rarefy bench -m my-model-thin -p 512 -n 128 -r 5\n  rarefy bench --random 1b "
      "--sparsity 0,0.7 -p 0 -n 32\n  rarefy bench ops --shape "
      "4096x14336 --n 1,16 --sparsity 0.5,0.7,0.9");
  add_bench_ops(*verb, session);
  verb->require_subcommand(0, 1);
  verb->callback([verb, flags, &session] {
    if (!verb->get_subcommands().empty()) return;
    flags->save_given = verb->get_option("--save")->count() > 0;
    require(flags->model.directory.empty() != flags->random.empty(),
            "-m: expected a model folder, or --random SHAPE, or `rarefy bench ops`");
    run(*flags, session);
  });
}

}  // namespace rarefy::cli
