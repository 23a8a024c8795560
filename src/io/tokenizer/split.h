// Cutting a text at the matches of a pattern: the five behaviours of tokenizers.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "io/tokenizer/regex.h"

namespace rarefy::tokenizer {

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

/// nullopt for an unknown name ("Isolated", …).
std::optional<SplitBehavior> parse_split_behavior(std::string_view name);

/// Takes the matches and the gaps between them in order, and calls emit(Span) for each word.
template <class Emit>
class Splitter {
 public:
  Splitter(SplitBehavior behavior, bool invert, Emit emit)
      : behavior_(behavior), invert_(invert), emit_(emit) {}

  void add(Span span, bool is_match) {
    if (invert_) is_match = !is_match;
    switch (behavior_) {
      case SplitBehavior::kIsolated:
        emit_(span);
        return;
      case SplitBehavior::kRemoved:
        if (!is_match) emit_(span);
        return;
      case SplitBehavior::kContiguous:  // neighbours of one kind are one word
        join_if(is_match == previous_, span);
        break;
      case SplitBehavior::kMergedWithPrevious:  // a match ends the word before it, once
        join_if(is_match && !previous_, span);
        break;
      case SplitBehavior::kMergedWithNext:  // a match opens the word after it, once
        join_if(!is_match && previous_, span);
        break;
    }
    previous_ = is_match;
  }
  void finish() {
    if (holds_) emit_(held_);
    holds_ = false;
  }

 private:
  void join_if(bool join, Span span) {
    if (join && holds_) {
      held_.end = span.end;
      return;
    }
    finish();
    held_ = span;
    holds_ = true;
  }

  SplitBehavior behavior_;
  bool invert_;
  Emit emit_;
  bool previous_ = false;
  bool holds_ = false;
  Span held_;  // a word that may yet grow
};

/// Cuts `text` where `for_each_match(visit)` finds matches.
template <class Matches, class Emit>
void split(std::string_view text, SplitBehavior behavior, bool invert, Matches&& for_each_match,
           Emit emit) {
  Splitter<Emit> splitter(behavior, invert, emit);
  std::size_t last = 0;
  for_each_match([&](std::size_t begin, std::size_t end) {
    if (last != begin) splitter.add({last, begin}, false);
    splitter.add({begin, end}, true);
    last = end;
  });
  if (last != text.size()) splitter.add({last, text.size()}, false);
  splitter.finish();
}

}  // namespace rarefy::tokenizer
