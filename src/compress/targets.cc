#include "compress/targets.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "base/check.h"

namespace rarefy::compress {
namespace {

constexpr std::string_view kWeight = ".weight";

std::string_view module_of(std::string_view tensor_name) {
  if (tensor_name.ends_with(kWeight)) tensor_name.remove_suffix(kWeight.size());
  return tensor_name;
}

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
using Regex = std::unique_ptr<pcre2_code, FreeCode>;

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 160> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

Regex compile(std::string_view pattern) {
  int error = 0;
  PCRE2_SIZE at = 0;
  Regex code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                           PCRE2_ANCHORED | PCRE2_UTF, &error, &at, nullptr));
  if (!code) {
    fail(ErrorKind::kInvalidArgument, "target 're:{}': {} at character {}", pattern,
         message_of(error), at);
  }
  return code;
}

/// `target` names the expression in errors: one that backtracks beyond PCRE2's limits decides
/// nothing, and must not pass for "no match".
bool matches_at_start(const pcre2_code* code, std::string_view target, std::string_view subject) {
  pcre2_match_data* data = pcre2_match_data_create_from_pattern(code, nullptr);
  const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(),
                                0, 0, data, nullptr);
  pcre2_match_data_free(data);
  if (found < 0 && found != PCRE2_ERROR_NOMATCH) {
    fail(ErrorKind::kUnsupported, "target '{}': could not be matched with '{}': {}", target,
         subject, message_of(found));
  }
  return found >= 0;
}

/// Calls visit(name) for the module and each module around it: "a.b.c", "a.b", "a".
template <class Visit>
bool any_ancestor(std::string_view module, Visit visit) {
  for (;;) {
    if (visit(module)) return true;
    const std::size_t dot = module.rfind('.');
    if (dot == std::string_view::npos) return false;
    module = module.substr(0, dot);
  }
}

}  // namespace

struct TargetMatcher::Entry {
  std::string text;
  Regex regex;  ///< Set for "re:…".

  [[nodiscard]] bool matches(const std::string& tensor_name) const {
    const std::string_view module = module_of(tensor_name);
    if (regex) {
      return matches_at_start(regex.get(), text, tensor_name) ||
             any_ancestor(module, [&](std::string_view name) {
               return matches_at_start(regex.get(), text, name);
             });
    }
    if (text == "Linear" || text == "ALL" || text == "__ALL__") return true;
    if (text.ends_with("DecoderLayer")) return module.find(".layers.") != std::string_view::npos;
    const std::string_view wanted = module_of(text);
    if (module.size() > wanted.size() && module.ends_with(wanted) &&
        module[module.size() - wanted.size() - 1] == '.') {
      return true;
    }
    return any_ancestor(module, [&](std::string_view name) { return name == wanted; });
  }
};

TargetMatcher::TargetMatcher(std::vector<std::string> entries) {
  for (std::string& text : entries) {
    Entry entry;
    if (text.starts_with("re:")) entry.regex = compile(std::string_view(text).substr(3));
    entry.text = std::move(text);
    entries_.push_back(std::move(entry));
  }
}

TargetMatcher::~TargetMatcher() = default;
TargetMatcher::TargetMatcher(TargetMatcher&&) noexcept = default;
TargetMatcher& TargetMatcher::operator=(TargetMatcher&&) noexcept = default;

int TargetMatcher::match(const std::string& tensor_name) const {
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].matches(tensor_name)) return static_cast<int>(i);
  }
  return -1;
}

std::vector<bool> TargetMatcher::matches(const std::string& tensor_name) const {
  std::vector<bool> result(entries_.size());
  for (std::size_t i = 0; i < entries_.size(); ++i) result[i] = entries_[i].matches(tensor_name);
  return result;
}

bool is_linear_weight(const CheckpointTensor& tensor) {
  // Names are all a checkpoint tells about modules. Embeddings of every family that we know carry
  // "embed" or are called wte/wpe.
  const std::string& name = tensor.name;
  return tensor.shape.size() == 2 && is_compute_dtype(tensor.dtype) && name.ends_with(kWeight) &&
         name.find("embed") == std::string::npos && !name.ends_with("wte.weight") &&
         !name.ends_with("wpe.weight");
}

std::vector<const CheckpointTensor*> select_targets(const Checkpoint& checkpoint,
                                                    const PruneStep& step) {
  const TargetMatcher targets(step.targets);
  const TargetMatcher ignore(step.ignore);
  std::vector<const CheckpointTensor*> selected;
  std::vector<bool> used(step.targets.size());
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    if (!is_linear_weight(tensor)) continue;
    const std::vector<bool> hits = targets.matches(tensor.name);
    bool any = false;
    for (std::size_t i = 0; i < hits.size(); ++i) {
      if (hits[i]) used[i] = any = true;
    }
    if (any && ignore.match(tensor.name) < 0) selected.push_back(&tensor);
  }
  for (std::size_t i = 0; i < used.size(); ++i) {
    require(used[i], "{}: target '{}' matches no linear weight", checkpoint.directory().string(),
            step.targets[i]);
  }
  require(!selected.empty(), "{}: every targeted weight is ignored",
          checkpoint.directory().string());
  return selected;
}

}  // namespace rarefy::compress
