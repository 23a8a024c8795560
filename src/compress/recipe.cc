// Recipes: llm-compressor's YAML to steps and back.
#include <yaml-cpp/yaml.h>

#include <array>
#include <cmath>
#include <functional>
#include <set>

#include "base/check.h"
#include "base/files.h"
#include "rarefy/compress.h"

namespace rarefy {
namespace {

/// Reads one file; knows its name for errors.
class RecipeReader {
 public:
  explicit RecipeReader(const std::string& file_name) : file_(file_name) {}

  Recipe read(std::string_view yaml) {
    YAML::Node root;
    try {
      root = YAML::Load(std::string(yaml));
    } catch (const YAML::Exception& e) {
      fail(ErrorKind::kInvalidArgument, "{}:{}: {}", file_, e.mark.line + 1, e.msg);
    }
    if (root.IsMap() || root.IsSequence()) read_container(root);
    require(!recipe_.steps.empty(), "{}: expected at least one modifier, found none", file_);
    return std::move(recipe_);
  }

 private:
  [[noreturn]] void complain(const YAML::Node& node, const std::string& what) const {
    fail(ErrorKind::kInvalidArgument, "{}:{}: {}", file_, node.Mark().line + 1, what);
  }

  /// Calls visit(key text, key, value) for each entry; a key that comes twice is an error.
  template <class Visit>
  void each_entry(const YAML::Node& map, Visit visit) const {
    std::set<std::string> seen;
    for (const auto& entry : map) {
      if (!entry.first.IsScalar()) complain(entry.first, "expected a name as key");
      const std::string key = entry.first.Scalar();
      if (!seen.insert(key).second) complain(entry.first, fmt::format("key '{}' comes twice", key));
      visit(key, entry.first, entry.second);
    }
  }

  /// Stages, groups ("…_modifiers") and lists of modifiers nest in any way that recipes in the wild
  /// do.
  void read_container(const YAML::Node& node) {
    if (node.IsSequence()) {
      for (const YAML::Node& item : node) {
        if (!item.IsMap()) complain(item, "expected a modifier with its settings");
        read_container(item);
      }
      return;
    }
    each_entry(node, [&](const std::string& key, const YAML::Node& name, const YAML::Node& value) {
      if (key.ends_with("Modifier")) {
        read_modifier(key, name, value);
      } else if (key == "run_type") {
        check_run_type(value);
      } else if (key == "metadata") {
        return;
      } else if (key.ends_with("_stage") || key.ends_with("modifiers") || key == "stages") {
        if (!value.IsMap() && !value.IsSequence())
          complain(name, fmt::format("'{}': expected modifiers inside", key));
        read_container(value);
      } else {
        complain(name, fmt::format("unknown key '{}': expected a modifier, '…_stage', "
                                   "'…_modifiers', 'run_type' or 'metadata'",
                                   key));
      }
    });
  }

  void check_run_type(const YAML::Node& value) const {
    const YAML::Node item = value.IsSequence() && value.size() == 1 ? value[0] : value;
    if (!item.IsScalar() || item.Scalar() != "oneshot")
      complain(value, "run_type: only 'oneshot' is supported");
  }

  void read_modifier(const std::string& modifier, const YAML::Node& name, const YAML::Node& body) {
    PruneStep step;
    bool constant = false;
    if (modifier == "SparseGPTModifier") {
      step.method = PruneMethod::kSparseGpt;
    } else if (modifier == "WandaPruningModifier") {
      step.method = PruneMethod::kWanda;
    } else if (modifier == "ConstantPruningModifier") {
      constant = true;
    } else if (modifier != "MagnitudeModifier" && modifier != "MagnitudePruningModifier") {
      complain(name, fmt::format("unknown modifier '{}': expected SparseGPTModifier, "
                                 "WandaPruningModifier, MagnitudeModifier, "
                                 "MagnitudePruningModifier or ConstantPruningModifier",
                                 modifier));
    }
    if (!body.IsMap() && !body.IsNull())
      complain(name, fmt::format("{}: expected its settings", modifier));
    sparsity_at_.reset();
    step.sparsity = constant ? 0.0 : step.sparsity;
    if (body.IsMap()) {
      each_entry(body, [&](const std::string& key, const YAML::Node& at, const YAML::Node& value) {
        if (value.IsNull()) {
          if (!is_known(modifier, key)) unknown_key(modifier, key, at);
          return;
        }
        if (!is_known(modifier, key)) unknown_key(modifier, key, at);
        read_setting(step, key, value);
      });
    }
    if (!constant && !sparsity_at_ && step.pattern.kind != PrunePattern::Kind::kNm)
      complain(name, fmt::format("{}: 'sparsity' is missing", modifier));
    settle_sparsity(step);
    recipe_.steps.push_back(std::move(step));
  }

  void settle_sparsity(PruneStep& step) const {
    const std::optional<double> implied = step.pattern.implied_sparsity();
    if (!implied) return;
    if (sparsity_at_ && std::abs(step.sparsity - *implied) > 1e-6) {
      complain(*sparsity_at_,
               fmt::format("sparsity {} contradicts mask_structure {}, which keeps {} of {}",
                           step.sparsity, step.pattern.name(), step.pattern.a, step.pattern.b));
    }
    step.sparsity = *implied;
  }

  [[noreturn]] void unknown_key(const std::string& modifier, const std::string& key,
                                const YAML::Node& at) const {
    complain(at, fmt::format("{}: unknown key '{}'", modifier, key));
  }

  /// Keys that llm-compressor's modifiers have, and 'scope', which is ours.
  static bool is_known(const std::string& modifier, const std::string& key) {
    static const std::set<std::string> every{"targets", "ignore",       "start",
                                             "end",     "update",       "group",
                                             "index",   "initialized_", "finalized_"};
    static const std::set<std::string> pruning{"sparsity", "mask_structure", "scope"};
    static const std::set<std::string> calibrated{"sequential_targets", "sequential_update",
                                                  "sparsity_profile",   "owl_m",
                                                  "owl_lmbda",          "preserve_sparsity_mask"};
    static const std::set<std::string> sparsegpt{"block_size", "dampening_frac", "percdamp",
                                                 "quantize", "offload_hessians"};
    static const std::set<std::string> magnitude{
        "final_sparsity", "init_sparsity", "apply_globally", "update_scheduler", "leave_enabled"};
    if (every.contains(key)) return true;
    if (modifier == "ConstantPruningModifier") return false;
    if (pruning.contains(key)) return true;
    if (modifier == "SparseGPTModifier") return calibrated.contains(key) || sparsegpt.contains(key);
    if (modifier == "WandaPruningModifier") return calibrated.contains(key);
    return magnitude.contains(key);
  }

  void read_setting(PruneStep& step, const std::string& key, const YAML::Node& value) {
    if (key == "sparsity" || key == "final_sparsity") {
      if (value.IsSequence()) complain(value, "sparsity: one number for all targets is supported");
      step.sparsity = number(key, value, 0.0, 1.0);
      sparsity_at_ = value;
    } else if (key == "mask_structure") {
      step.pattern = pattern(key, value);
    } else if (key == "scope") {
      const std::optional<PruneScope> scope = parse_prune_scope(text(key, value));
      if (!scope) complain(value, "scope: expected default, tensor, row or global");
      step.scope = *scope;
    } else if (key == "apply_globally") {
      if (boolean(key, value)) step.scope = PruneScope::kGlobal;
    } else if (key == "targets") {
      step.targets = strings(key, value);
    } else if (key == "ignore") {
      step.ignore = strings(key, value);
    } else if (key == "block_size") {
      step.block_size = static_cast<std::int64_t>(number(key, value, 1, 1 << 20));
    } else if (key == "dampening_frac" || key == "percdamp") {
      step.dampening = number(key, value, 0.0, 1e6);
    } else if (key == "sparsity_profile" || key == "owl_m" || key == "owl_lmbda") {
      complain(value, fmt::format("{}: layer-wise sparsity profiles are not supported; give one "
                                  "modifier a sparsity and targets for each group of layers",
                                  key));
    } else if (key == "quantize") {
      if (boolean(key, value)) complain(value, "quantize: only false is supported");
    } else if (key == "preserve_sparsity_mask") {
      if (!boolean(key, value))
        complain(value, "preserve_sparsity_mask: zeros are always preserved");
    } else if (key == "sequential_targets") {
      strings(key, value);
    }
    // What is left steers training schedules, memory, or the order of layers: one shot, one layer
    // at a time is what happens anyway.
  }

  PrunePattern pattern(const std::string& key, const YAML::Node& value) const {
    const std::string name = text(key, value);
    try {
      return PrunePattern::parse(name);
    } catch (const Error& e) {
      complain(value, e.what());
    }
  }

  std::string text(const std::string& key, const YAML::Node& value) const {
    if (!value.IsScalar()) complain(value, fmt::format("{}: expected one value", key));
    return value.Scalar();
  }

  bool boolean(const std::string& key, const YAML::Node& value) const {
    bool result = false;
    if (!YAML::convert<bool>::decode(value, result))
      complain(value, fmt::format("{}: expected true or false", key));
    return result;
  }

  double number(const std::string& key, const YAML::Node& value, double low, double high) const {
    double result = 0;
    if (!value.IsScalar() || !YAML::convert<double>::decode(value, result) ||
        !(result >= low && result <= high)) {
      complain(value, fmt::format("{}: expected a number from {} to {}, found '{}'", key, low, high,
                                  value.IsScalar() ? value.Scalar() : "a list"));
    }
    return result;
  }

  std::vector<std::string> strings(const std::string& key, const YAML::Node& value) const {
    std::vector<std::string> result;
    if (value.IsScalar()) return {value.Scalar()};
    if (!value.IsSequence()) complain(value, fmt::format("{}: expected a name or a list", key));
    for (const YAML::Node& item : value) result.push_back(text(key, item));
    return result;
  }

  std::string file_;
  Recipe recipe_;
  std::optional<YAML::Node> sparsity_at_;  ///< Where the modifier at hand says its sparsity.
};

const char* modifier_name(PruneMethod method) {
  switch (method) {
    case PruneMethod::kMagnitude:
      return "MagnitudeModifier";
    case PruneMethod::kWanda:
      return "WandaPruningModifier";
    case PruneMethod::kSparseGpt:
      return "SparseGPTModifier";
  }
  return "MagnitudeModifier";
}

void emit_strings(YAML::Emitter& out, const char* key, const std::vector<std::string>& values) {
  out << YAML::Key << key << YAML::Value << YAML::Flow << YAML::BeginSeq;
  for (const std::string& value : values) out << YAML::DoubleQuoted << value;
  out << YAML::EndSeq;
}

void emit_step(YAML::Emitter& out, const PruneStep& step) {
  out << YAML::Key << modifier_name(step.method) << YAML::Value << YAML::BeginMap;
  // The shortest decimal that reads back as the same double.
  const double sparsity = step.pattern.implied_sparsity().value_or(step.sparsity);
  out << YAML::Key << "sparsity" << YAML::Value << fmt::format("{}", sparsity);
  const std::string pattern =
      step.pattern.kind == PrunePattern::Kind::kUnstructured ? "0:0" : step.pattern.name();
  out << YAML::Key << "mask_structure" << YAML::Value << YAML::DoubleQuoted << pattern;
  if (step.scope != PruneScope::kDefault)
    out << YAML::Key << "scope" << YAML::Value << to_string(step.scope);
  emit_strings(out, "targets", step.targets);
  emit_strings(out, "ignore", step.ignore);
  if (step.method == PruneMethod::kSparseGpt) {
    out << YAML::Key << "block_size" << YAML::Value << step.block_size;
    out << YAML::Key << "dampening_frac" << YAML::Value << fmt::format("{}", step.dampening);
  }
  out << YAML::EndMap;
}

}  // namespace

Recipe Recipe::load(const std::filesystem::path& path) {
  return parse(read_text(path), path.string());
}

Recipe Recipe::parse(std::string_view yaml, const std::string& file_name) {
  return RecipeReader(file_name).read(yaml);
}

std::string Recipe::to_yaml() const {
  // A stage a step: modifiers of one kind would be equal keys of one map.
  YAML::Emitter out;
  out << YAML::BeginMap;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    out << YAML::Key
        << (steps.size() == 1 ? std::string("sparsity_stage")
                              : fmt::format("sparsity_{}_stage", i + 1));
    out << YAML::Value << YAML::BeginMap << YAML::Key << "sparsity_modifiers" << YAML::Value
        << YAML::BeginMap;
    emit_step(out, steps[i]);
    out << YAML::EndMap << YAML::EndMap;
  }
  out << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

}  // namespace rarefy
