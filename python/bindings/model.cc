// Whole models on Rarefy's own engine: load, generate, perplexity.
#include "rarefy/model.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>

#include "arguments.h"
#include "base/turn.h"
#include "bindings.h"
#include "progress.h"
#include "rarefy/generate.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace rarefy::python {
namespace {

struct LoadedModel {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<Model> model;
  std::atomic<bool> busy = false;
};

rarefy::Device device_argument(const std::string& name) {
  if (name == "cpu") return rarefy::Device::kCpu;
  if (name == "auto") return rarefy::Device::kAuto;
  require(name == "cuda", "device: expected cpu, cuda or auto, got '{}'", name);
  return rarefy::Device::kCuda;
}

std::unique_ptr<LoadedModel> load(const std::filesystem::path& folder, const std::string& device,
                                  const std::vector<std::string>& formats, bool measure,
                                  const std::string& precision,
                                  std::optional<std::size_t> memory_budget,
                                  const std::optional<std::filesystem::path>& cache_dir,
                                  nb::object progress) {
  CallbackProgress callback(std::move(progress));
  LoadOptions options;
  for (const std::string& name : formats) options.formats.push_back(format_argument(name));
  options.measure = measure;
  options.precision = precision_argument(precision);
  if (memory_budget) options.memory_budget = *memory_budget;
  options.device = device_argument(device);
  options.progress = &callback;
  const nb::gil_scoped_release unlocked;
  if (!std::filesystem::is_directory(folder))
    fail(ErrorKind::kIo, "{}: expected a model folder, found none", folder.string());
  auto loaded = std::make_unique<LoadedModel>();
  loaded->tokenizer = Tokenizer::load(folder);
  Planner::Options planner_options;
  if (cache_dir) planner_options.cache_dir = *cache_dir;
  Planner planner(planner_options, default_pool());
  loaded->model = Model::load(folder, planner, options);
  return loaded;
}

Generation generate(LoadedModel& self, const std::string& prompt, std::int64_t max_tokens,
                    float temperature, int top_k, float top_p, float min_p,
                    float repetition_penalty, std::uint64_t seed, std::vector<std::string> stop,
                    bool stop_at_eos, const nb::object& on_text) {
  const Turn turn(self.busy);
  GenerateOptions options;
  options.sampling = {.temperature = temperature,
                      .top_k = top_k,
                      .top_p = top_p,
                      .min_p = min_p,
                      .repetition_penalty = repetition_penalty,
                      .seed = seed};
  options.max_tokens = max_tokens;
  options.stop = std::move(stop);
  options.stop_at_eos = stop_at_eos;
  const auto show = [&](std::string_view piece) {
    const nb::gil_scoped_acquire locked;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (on_text.is_none()) return true;
    // None goes on, as print gives it.
    const nb::object answer = on_text(nb::str(piece.data(), piece.size()));
    return answer.is_none() || PyObject_IsTrue(answer.ptr()) != 0;
  };
  const nb::gil_scoped_release unlocked;
  return rarefy::generate(*self.model, self.tokenizer, prompt, options, show);
}

Perplexity perplexity(LoadedModel& self, const std::string& text, std::int64_t context,
                      std::int64_t max_windows, nb::object progress) {
  const Turn turn(self.busy);
  CallbackProgress callback(std::move(progress));
  const std::int64_t most = self.model->config().max_positions;
  const nb::gil_scoped_release unlocked;
  return rarefy::perplexity(*self.model, *self.tokenizer, text,
                            context > 0 ? context : std::min<std::int64_t>(most, 2048), max_windows,
                            callback);
}

std::string repr(const LoadedModel& self) {
  const Model& model = *self.model;
  return fmt::format("Model({} layers, {:.3g} M parameters, {:.1f} MB of {:.1f} dense, on {})",
                     model.config().layers, static_cast<double>(model.config().parameters()) / 1e6,
                     static_cast<double>(model.weight_bytes()) / 1e6,
                     static_cast<double>(model.dense_weight_bytes()) / 1e6,
                     model.gpu().empty() ? "cpu" : model.gpu());
}

}  // namespace

void bind_model(nb::module_& module) {
  nb::class_<Generation>(module, "Generation", "What `Model.generate` made.")
      .def_ro("prompt_ids", &Generation::prompt_ids)
      .def_ro("ids", &Generation::ids, "The new ones, an end-of-text token included.")
      .def_ro("text", &Generation::text, "Of `ids`.")
      .def_ro("prefill_s", &Generation::prefill_s)
      .def_ro("decode_s", &Generation::decode_s)
      .def_ro("tokens_per_s", &Generation::tokens_per_s, "New tokens after the first, a second.")
      .def_ro("finish", &Generation::finish, "length, eos, stop or cancelled.")
      .def("__str__", [](const Generation& self) { return self.text; });
  nb::class_<Perplexity>(module, "Perplexity", "What `Model.perplexity` measured.")
      .def_ro("nll", &Perplexity::nll, "Mean loss, in nats.")
      .def_ro("ppl", &Perplexity::ppl, "exp(nll)")
      .def_ro("bits_per_byte", &Perplexity::bits_per_byte)
      .def_ro("windows", &Perplexity::windows)
      .def_ro("context", &Perplexity::context)
      .def_ro("tokens", &Perplexity::tokens);
  nb::class_<LoadedModel>(module, "Model",
                          "A model on Rarefy's own engine, without torch: a folder of config.json, "
                          "tokenizer.json and safetensors, dense or thin. One call at a time.")
      .def(nb::new_(&load), "folder"_a, nb::kw_only(), "device"_a = "cpu",
           "formats"_a = std::vector<std::string>(), "measure"_a = true, "precision"_a = "exact",
           "memory_budget"_a = nb::none(), "cache_dir"_a = nb::none(), "progress"_a = nb::none(),
           "device: cpu, cuda or auto. formats: only these compete; [\"dense\"] keeps zeros. "
           "measure: False plans from the cache or an estimate. precision: as in `spmm`. "
           "progress: called with what is done, how much, of how much, and the current item.")
      .def(
          "generate", &generate, "prompt"_a, nb::kw_only(), "max_tokens"_a = 128,
          "temperature"_a = 0.0F, "top_k"_a = 0, "top_p"_a = 1.0F, "min_p"_a = 0.0F,
          "repetition_penalty"_a = 1.0F, "seed"_a = 0, "stop"_a = std::vector<std::string>(),
          "stop_at_eos"_a = true, "on_text"_a = nb::none(),
          "Goes on from a prompt until max_tokens, the end of the context, an end-of-text token or "
          "one of the strings `stop`. temperature 0 is greedy. on_text is called with each piece "
          "of text as it becomes final, and ends the generation by returning False.")
      .def("perplexity", &perplexity, "text"_a, nb::kw_only(), "context"_a = 0, "max_windows"_a = 0,
           "progress"_a = nb::none(),
           "How well the model predicts a text, in windows of `context` tokens (0: the model's "
           "longest, at most 2048).")
      .def(
          "encode",
          [](const LoadedModel& self, const std::string& text) {
            return self.tokenizer->encode(text);
          },
          "text"_a, "Token ids of a text.")
      .def(
          "decode",
          [](const LoadedModel& self, const std::vector<TokenId>& ids) {
            return self.tokenizer->decode(ids);
          },
          "ids"_a, "Text of token ids.")
      .def_prop_ro(
          "device",
          [](const LoadedModel& self) {
            return self.model->gpu().empty() ? std::string("cpu") : self.model->gpu();
          },
          "cpu, or the name of the GPU.")
      .def_prop_ro(
          "gpu_note", [](const LoadedModel& self) { return self.model->gpu_note(); },
          "Why a model of device auto is not on the GPU that is there; empty otherwise.")
      .def_prop_ro(
          "nbytes", [](const LoadedModel& self) { return self.model->weight_bytes(); },
          "Of weights, embeddings and norms as held in memory.")
      .def_prop_ro(
          "dense_nbytes", [](const LoadedModel& self) { return self.model->dense_weight_bytes(); },
          "The same, all dense.")
      .def("__repr__", &repr);
}

}  // namespace rarefy::python
