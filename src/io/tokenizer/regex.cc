#define PCRE2_CODE_UNIT_WIDTH 8

#include "io/tokenizer/regex.h"

#include <pcre2.h>

#include <array>

#include "base/check.h"
#include "io/tokenizer/regex_syntax.h"

namespace rarefy::tokenizer {
namespace {

// Backtracking stops here. Split patterns need a few steps a character, so a text has to be
// hostile to its own pattern to get near.
constexpr std::uint32_t kMatchLimit = 50'000'000;
constexpr std::uint32_t kHeapLimitKib = 256 * 1024;
constexpr std::size_t kJitStackFirst = 64 * 1024, kJitStackMost = 16 * 1024 * 1024;

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

// What a thread needs to match: one pair of offsets, limits, and a stack that the JIT may grow.
struct MatchScratch {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(kJitStackFirst, kJitStackMost, nullptr);

  MatchScratch() {
    if (data == nullptr || context == nullptr)
      fail(ErrorKind::kOutOfMemory, "expected memory for matching a pattern, found none");
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~MatchScratch() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  MatchScratch(const MatchScratch&) = delete;
  MatchScratch& operator=(const MatchScratch&) = delete;
};

MatchScratch& scratch() {
  thread_local MatchScratch mine;
  return mine;
}

}  // namespace

struct Regex::Code {
  pcre2_code* compiled = nullptr;
  bool jit = false;

  Code() = default;
  ~Code() { pcre2_code_free(compiled); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
};

Regex::Regex(std::string_view pattern, std::string where)
    : pattern_(pattern), where_(std::move(where)) {
  const std::string translated = to_pcre2(pattern_, where_);
  auto* context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_set_bsr(context, PCRE2_BSR_UNICODE);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_shared<Code>();
  code->compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (code->compiled == nullptr) {
    fail(ErrorKind::kUnsupported, "{}: expected a regular expression, found '{}' ({})", where_,
         pattern_, message_of(error));
  }
  code->jit = pcre2_jit_compile(code->compiled, PCRE2_JIT_COMPLETE) == 0;
  code_ = std::move(code);
}

std::optional<Span> Regex::find(std::string_view text, std::size_t from) const {
  MatchScratch& mine = scratch();
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int result = PCRE2_ERROR_JIT_STACKLIMIT;
  if (code_->jit) {
    result = pcre2_jit_match(code_->compiled, subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                             mine.data, mine.context);
  }
  // The interpreter keeps its backtracking on the heap, where the JIT's stack is too small.
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
    result = pcre2_match(code_->compiled, subject, text.size(), from,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, mine.data, mine.context);
  }
  if (result == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (result < 0) {
    fail(ErrorKind::kUnsupported,
         "{}: expected a pattern that matches within limits, found '{}' ({})", where_, pattern_,
         message_of(result));
  }
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(mine.data);
  // \K inside a lookahead can end a match before it starts.
  if (offsets[0] > offsets[1]) return Span{offsets[1], offsets[1]};
  return Span{offsets[0], offsets[1]};
}

}  // namespace rarefy::tokenizer
