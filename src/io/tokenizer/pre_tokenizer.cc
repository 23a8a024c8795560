#include "io/tokenizer/pre_tokenizer.h"

#include <fmt/format.h>

#include "io/tokenizer/fields.h"
#include "io/tokenizer/pattern.h"
#include "io/tokenizer/regex_properties.h"
#include "io/tokenizer/split.h"
#include "io/tokenizer/unicode.h"

namespace rarefy::tokenizer {

std::optional<SplitBehavior> parse_split_behavior(std::string_view name) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return std::nullopt;
}

namespace {

class Split final : public PreTokenizer {
 public:
  Split(Pattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void run(std::string_view text, bool at_start, StageBuffers&, WordSink sink) const override {
    split(
        text, behavior_, invert_, [&](const auto& visit) { pattern_.for_each_match(text, visit); },
        [&](Span span) {
          sink(text.substr(span.begin, span.end - span.begin), at_start && span.begin == 0);
        });
  }

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

// Cuts at single characters that `Matches` accepts.
template <class Matches>
class SplitCharacters final : public PreTokenizer {
 public:
  SplitCharacters(Matches matches, SplitBehavior behavior)
      : matches_(matches), behavior_(behavior) {}
  void run(std::string_view text, bool at_start, StageBuffers&, WordSink sink) const override {
    split(
        text, behavior_, false,
        [&](const auto& visit) {
          for (std::size_t at = 0; at < text.size();) {
            const CodePoint c = code_point_at(text, at);
            if (matches_(c.value)) visit(at, at + c.length);
            at += c.length;
          }
        },
        [&](Span span) {
          sink(text.substr(span.begin, span.end - span.begin), at_start && span.begin == 0);
        });
  }

 private:
  Matches matches_;
  SplitBehavior behavior_;
};

template <class Matches>
std::unique_ptr<const PreTokenizer> split_characters(Matches matches, SplitBehavior behavior) {
  return std::make_unique<SplitCharacters<Matches>>(matches, behavior);
}

// GPT-2's own pattern, which ByteLevel carries with it.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class ByteLevel final : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex, const std::string& where)
      : add_prefix_space_(add_prefix_space) {
    if (use_regex) pattern_.emplace(kGpt2Pattern, where);
  }
  void run(std::string_view text, bool at_start, StageBuffers& buffers,
           WordSink sink) const override {
    if (add_prefix_space_ && !text.starts_with(' ')) {
      buffers.text.assign(1, ' ');
      buffers.text += text;
      text = buffers.text;
    }
    const auto emit = [&](Span span) {
      buffers.word.clear();
      append_byte_level(buffers.word, text.substr(span.begin, span.end - span.begin));
      sink(buffers.word, at_start && span.begin == 0);
    };
    if (!pattern_) {
      emit({0, text.size()});
      return;
    }
    split(
        text, SplitBehavior::kIsolated, false,
        [&](const auto& visit) { for_each_match(*pattern_, text, visit); }, emit);
  }

 private:
  bool add_prefix_space_;
  std::optional<Regex> pattern_;
};

enum class PrependScheme { kAlways, kFirst, kNever };

class Metaspace final : public PreTokenizer {
 public:
  Metaspace(char32_t replacement, PrependScheme scheme, bool split_words)
      : scheme_(scheme), split_words_(split_words) {
    append_utf8(replacement_, replacement);
  }
  void run(std::string_view text, bool at_start, StageBuffers& buffers,
           WordSink sink) const override {
    std::string& out = buffers.text;
    out.clear();
    const bool wanted =
        scheme_ == PrependScheme::kAlways || (scheme_ == PrependScheme::kFirst && at_start);
    if (wanted && !text.starts_with(' ') && !text.starts_with(replacement_)) out = replacement_;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t space = std::min(text.find(' ', at), text.size());
      out += text.substr(at, space - at);
      if (space < text.size()) out += replacement_;
      at = space + 1;
    }
    const std::string_view replaced = out;
    if (!split_words_) {
      sink(replaced, at_start);
      return;
    }
    split(
        replaced, SplitBehavior::kMergedWithNext, false,
        [&](const auto& visit) {
          for (std::size_t at = replaced.find(replacement_); at != std::string_view::npos;
               at = replaced.find(replacement_, at + replacement_.size()))
            visit(at, at + replacement_.size());
        },
        [&](Span span) {
          sink(replaced.substr(span.begin, span.end - span.begin), at_start && span.begin == 0);
        });
  }

 private:
  std::string replacement_;
  PrependScheme scheme_;
  bool split_words_;
};

PrependScheme read_prepend_scheme(const Fields& fields) {
  const std::string name = fields.text("prepend_scheme", "always");
  if (name == "first") return PrependScheme::kFirst;
  if (name == "never" || !fields.boolean("add_prefix_space", true)) return PrependScheme::kNever;
  if (name != "always") fields.mismatch("prepend_scheme", "always, first or never");
  return PrependScheme::kAlways;
}

SplitBehavior read_behavior(const Fields& fields, const std::string& otherwise) {
  const auto behavior = parse_split_behavior(fields.text("behavior", otherwise));
  if (!behavior) {
    fields.mismatch("behavior",
                    "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
  }
  return *behavior;
}

using Stages = std::vector<std::unique_ptr<const PreTokenizer>>;

void read_into(Stages& out, const Json& json, const std::string& where) {
  const Fields fields(json, where);
  const std::string type = fields.type();
  if (type == "Sequence") {
    const Json& list = fields.array("pretokenizers");
    for (std::size_t i = 0; i < list.size(); ++i)
      read_into(out, list[i], fmt::format("{}.pretokenizers[{}]", where, i));
  } else if (type == "Split") {
    out.push_back(std::make_unique<Split>(read_pattern(fields), read_behavior(fields, "Removed"),
                                          fields.boolean("invert", false)));
  } else if (type == "ByteLevel") {
    out.push_back(std::make_unique<ByteLevel>(fields.boolean("add_prefix_space", true),
                                              fields.boolean("use_regex", true), where));
  } else if (type == "Metaspace") {
    out.push_back(std::make_unique<Metaspace>(fields.character("replacement", "\xE2\x96\x81"),
                                              read_prepend_scheme(fields),
                                              fields.boolean("split", true)));
  } else if (type == "Digits") {
    out.push_back(split_characters(is_numeric, fields.boolean("individual_digits", false)
                                                   ? SplitBehavior::kIsolated
                                                   : SplitBehavior::kContiguous));
  } else if (type == "Whitespace") {  // Rust's \w, which knows the two joiners too
    const std::string word = std::string(kRustWordItems);
    const std::string pattern = fmt::format(R"([{0}]+|[^{0}\s]+)", word);
    out.push_back(std::make_unique<Split>(Pattern(Regex(pattern, where)), SplitBehavior::kRemoved,
                                          /*invert=*/true));
  } else if (type == "WhitespaceSplit") {
    out.push_back(split_characters(is_white_space, SplitBehavior::kRemoved));
  } else if (type == "Punctuation") {
    out.push_back(split_characters(is_punctuation, read_behavior(fields, "Isolated")));
  } else if (type == "CharDelimiterSplit") {
    const char32_t delimiter = fields.character("delimiter", "");
    out.push_back(split_characters([delimiter](char32_t c) { return c == delimiter; },
                                   SplitBehavior::kRemoved));
  } else {
    fields.unsupported_type(
        "Sequence, Split, ByteLevel, Metaspace, Digits, Whitespace, WhitespaceSplit, Punctuation "
        "or CharDelimiterSplit");
  }
}

}  // namespace

PreTokenizers::PreTokenizers(const Json& json, const std::string& where) {
  if (!json.is_null()) read_into(stages_, json, where);
}

void PreTokenizers::run_from(std::size_t stage, std::string_view text, bool at_start,
                             std::vector<StageBuffers>& buffers, WordSink sink) const {
  if (text.empty()) return;
  if (stage == stages_.size()) {
    sink(text, at_start);
    return;
  }
  const auto next = [&](std::string_view word, bool word_at_start) {
    run_from(stage + 1, word, word_at_start, buffers, sink);
  };
  stages_[stage]->run(text, at_start, buffers[stage], WordSink(next));
}

}  // namespace rarefy::tokenizer
