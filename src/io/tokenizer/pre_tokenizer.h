// How tokenizers cuts a section of text into words.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace rarefy::tokenizer {

/// A borrowed callable that takes a word and whether it starts the whole input.
class WordSink {
 public:
  template <class Call>
  explicit WordSink(const Call& call)
      : object_(&call), call_([](const void* object, std::string_view word, bool at_start) {
          (*static_cast<const Call*>(object))(word, at_start);
        }) {}
  void operator()(std::string_view word, bool at_start) const { call_(object_, word, at_start); }

 private:
  const void* object_;
  void (*call_)(const void*, std::string_view, bool);
};

/// Text that a stage builds; kept between words so that nothing is allocated for each.
struct StageBuffers {
  std::string text, word;
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  /// Hands each word of `text` to `sink`, left to right; empty words are dropped by the chain.
  virtual void run(std::string_view text, bool at_start, StageBuffers& buffers,
                   WordSink sink) const = 0;
};

/// Stages run depth first: a word goes through all of them before the next one is cut, so no list
/// of words is ever held.
class PreTokenizers {
 public:
  /// Sequence, Split, ByteLevel, Metaspace, Digits, Whitespace, WhitespaceSplit, Punctuation,
  /// CharDelimiterSplit; null. kUnsupported names any other.
  PreTokenizers(const Json& json, const std::string& where);

  [[nodiscard]] std::size_t size() const { return stages_.size(); }
  void run(std::string_view text, bool at_start, std::vector<StageBuffers>& buffers,
           WordSink sink) const {
    if (buffers.size() < stages_.size()) buffers.resize(stages_.size());
    run_from(0, text, at_start, buffers, sink);
  }

 private:
  void run_from(std::size_t stage, std::string_view text, bool at_start,
                std::vector<StageBuffers>& buffers, WordSink sink) const;
  std::vector<std::unique_ptr<const PreTokenizer>> stages_;
};

}  // namespace rarefy::tokenizer
