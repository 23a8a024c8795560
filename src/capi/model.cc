#include "rarefy/model.h"

#include <atomic>
#include <string>

#include "base/turn.h"
#include "capi/entry.h"
#include "rarefy/generate.h"

using namespace rarefy;

struct rarefy_model {
  std::shared_ptr<ThreadPool> pool;  // before the model, which works on it to its end
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<Model> model;
  std::string device, gpu_note;
  std::atomic<bool> busy = false;
};

namespace {

std::vector<FormatSpec> parse_formats(std::string_view list) {
  std::vector<FormatSpec> formats;
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    const std::string_view name = list.substr(begin, end - begin);
    const std::optional<FormatSpec> spec = FormatSpec::parse(name);
    require(spec.has_value(),
            "options: formats: expected names such as dense, bitmap, csr16, sell8, 2:4 or "
            "bsr16x32, got '{}'",
            name);
    formats.push_back(*spec);
    begin = end + 1;
  }
  return formats;
}

Device parse_device(const char* name) {
  const std::string_view device = name != nullptr ? name : "cpu";
  if (device == "cpu") return Device::kCpu;
  if (device == "auto") return Device::kAuto;
  require(device == "cuda", "options: device: expected cpu, cuda or auto, got '{}'", device);
  return Device::kCuda;
}

LoadOptions load_options(const rarefy_load_options& given) {
  LoadOptions options;
  if (given.formats != nullptr) options.formats = parse_formats(given.formats);
  if (given.memory_budget != 0) options.memory_budget = given.memory_budget;
  options.measure = given.no_measure == 0;
  if (given.bf16_activations != 0) options.precision = Precision::kBf16;
  options.device = parse_device(given.device);
  const bool dense = options.formats.size() == 1 && options.formats.front() == format::kDense;
  require(options.device != Device::kCuda || options.formats.empty() || dense,
          "options: formats: expected none or dense on a GPU, got '{}'", given.formats);
  if (!options.formats.empty() && !dense) options.device = Device::kCpu;
  return options;
}

GenerateOptions generate_options(const rarefy_generate_options& given) {
  GenerateOptions options;
  if (given.max_tokens != 0) options.max_tokens = given.max_tokens;
  options.sampling.temperature = given.temperature;
  options.sampling.top_k = given.top_k;
  if (given.top_p != 0) options.sampling.top_p = given.top_p;
  options.sampling.min_p = given.min_p;
  if (given.repetition_penalty != 0) options.sampling.repetition_penalty = given.repetition_penalty;
  options.sampling.seed = given.seed;
  options.stop_at_eos = given.ignore_eos == 0;
  if (given.stop_count > 0) capi::require_given(given.stop, "options: stop");
  for (std::size_t i = 0; i < given.stop_count; ++i) {
    require(given.stop[i] != nullptr, "options: stop[{}]: expected a string, got NULL", i);
    options.stop.emplace_back(given.stop[i]);
  }
  return options;
}

int32_t finish_of(const std::string& finish) {
  if (finish == "eos") return RAREFY_FINISH_EOS;
  if (finish == "stop") return RAREFY_FINISH_STOP;
  if (finish == "cancelled") return RAREFY_FINISH_CANCELLED;
  return RAREFY_FINISH_LENGTH;
}

}  // namespace

rarefy_status rarefy_model_load(const char* directory, const rarefy_load_options* options,
                                rarefy_model** model) {
  return capi::entry("rarefy_model_load", [&] {
    capi::require_given(directory, "directory");
    capi::require_given(model, "model");
    const rarefy_load_options given = capi::read_options(options, "options");
    const LoadOptions load = load_options(given);
    if (!std::filesystem::is_directory(directory))
      fail(ErrorKind::kIo, "{}: expected a model folder, found none", directory);
    auto loaded = std::make_unique<rarefy_model>();
    loaded->pool = capi::current_pool();
    loaded->tokenizer = Tokenizer::load(directory);
    Planner::Options planner_options;
    if (given.cache_dir != nullptr) planner_options.cache_dir = given.cache_dir;
    Planner planner(planner_options, *loaded->pool);
    loaded->model = Model::load(directory, planner, load, *loaded->pool);
    loaded->device = loaded->model->gpu().empty() ? "cpu" : loaded->model->gpu();
    loaded->gpu_note = loaded->model->gpu_note();
    *model = loaded.release();
  });
}

void rarefy_model_free(rarefy_model* model) {
  delete model;
}

rarefy_status rarefy_model_info(const rarefy_model* model, rarefy_model_description* description) {
  return capi::entry("rarefy_model_info", [&] {
    capi::require_given(model, "model");
    capi::require_result(description, "description");
    const ModelConfig& config = model->model->config();
    rarefy_model_description out{};
    out.parameters = config.parameters();
    out.layers = config.layers;
    out.vocab_size = config.vocab_size;
    out.hidden_size = config.hidden_size;
    out.context = config.max_positions;
    out.weight_bytes = model->model->weight_bytes();
    out.dense_weight_bytes = model->model->dense_weight_bytes();
    out.device = model->device.c_str();
    out.gpu_note = model->gpu_note.c_str();
    capi::write_result(description, out);
  });
}

rarefy_status rarefy_generate(rarefy_model* model, const char* prompt, size_t prompt_bytes,
                              const rarefy_generate_options* options, rarefy_text_callback callback,
                              void* user, char** text, rarefy_generation* generation) {
  return capi::entry("rarefy_generate", [&] {
    capi::require_given(model, "model");
    const std::string_view start = capi::text_argument(prompt, prompt_bytes, "prompt");
    const GenerateOptions wanted = generate_options(capi::read_options(options, "options"));
    if (generation != nullptr) capi::require_result(generation, "generation");
    const Turn turn(model->busy);
    std::function<bool(std::string_view)> on_text;
    if (callback != nullptr) {
      on_text = [&](std::string_view piece) {
        return callback(piece.data(), piece.size(), user) == 0;
      };
    }
    const Generation result = generate(*model->model, model->tokenizer, start, wanted, on_text);
    if (text != nullptr) *text = capi::copy_text(result.text);
    if (generation != nullptr) {
      rarefy_generation out{};
      out.text_bytes = result.text.size();
      out.prompt_tokens = static_cast<int64_t>(result.prompt_ids.size());
      out.new_tokens = static_cast<int64_t>(result.ids.size());
      out.prefill_s = result.prefill_s;
      out.decode_s = result.decode_s;
      out.finish = finish_of(result.finish);
      capi::write_result(generation, out);
    }
  });
}

rarefy_status rarefy_perplexity(rarefy_model* model, const char* text, size_t text_bytes,
                                int64_t context, int64_t max_windows,
                                rarefy_perplexity_result* result) {
  return capi::entry("rarefy_perplexity", [&] {
    capi::require_given(model, "model");
    capi::require_result(result, "result");
    const std::string_view whole = capi::text_argument(text, text_bytes, "text");
    const Turn turn(model->busy);
    const Perplexity found =
        perplexity(*model->model, *model->tokenizer, whole, context, max_windows);
    rarefy_perplexity_result out{};
    out.ppl = found.ppl;
    out.nll = found.nll;
    out.bits_per_byte = found.bits_per_byte;
    out.windows = found.windows;
    out.tokens = found.tokens;
    capi::write_result(result, out);
  });
}
