// A deterministic mutator for parsers: no coverage, no compiler support, the same inputs
// everywhere.
//
// A target is a function of bytes. Any outcome but success or rarefy::Error of one line, and of a
// kind that is not "internal", is a bug. Built as GoogleTest, a target runs for a bounded number of
// iterations and a bounded time; with RAREFY_LIBFUZZER it becomes a libFuzzer program instead:
//
//     void parse(std::string_view input) { … }
//     RAREFY_FUZZ_TARGET(Json, parse, (Corpus{.seeds = {"{}"}, .words = {"\"key\":"}}))
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "rarefy/error.h"

namespace rarefy::fuzz {

struct Corpus {
  std::vector<std::string> seeds;  ///< Valid inputs, and interesting ones.
  std::vector<std::string> words;  ///< What the format is made of.
};

/// Runs `target`; throws std::logic_error for an Error that breaks the contract, and lets anything
/// else that the target throws pass.
inline void run_one(void (*target)(std::string_view), std::string_view input) {
  try {
    target(input);
  } catch (const Error& e) {
    const std::string message = e.what();
    if (e.kind() == ErrorKind::kInternal) throw std::logic_error("an internal error: " + message);
    if (message.empty() || message.find('\n') != std::string::npos) {
      throw std::logic_error("a message that is not one line: " + message);
    }
  }
}

class Mutator {
 public:
  Mutator(const Corpus& corpus, std::uint64_t seed) : corpus_(corpus), state_(seed) {}

  /// One of the seeds after one to six changes.
  std::string next() {
    std::string text = pick(corpus_.seeds);
    for (std::size_t changes = 1 + below(6); changes > 0; --changes) change(text);
    return text;
  }

 private:
  static constexpr std::size_t kLongest = std::size_t{1} << 16;

  std::uint64_t draw() {  // splitmix64
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }
  std::size_t below(std::size_t n) { return n == 0 ? 0 : draw() % n; }
  const std::string& pick(const std::vector<std::string>& from) {
    static const std::string kNothing;
    return from.empty() ? kNothing : from[below(from.size())];
  }
  /// Mostly short stretches, sometimes up to everything.
  std::size_t stretch(std::size_t most) {
    return std::min(most, below(4) == 0 ? below(most + 1) : 1 + below(8));
  }

  void change(std::string& text) {
    const std::size_t at = below(text.size() + 1);
    switch (below(11)) {
      case 0:  // A bit.
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 1:  // A byte.
        if (at < text.size()) text[at] = static_cast<char>(draw());
        break;
      case 2:
        text.insert(at, 1, static_cast<char>(draw()));
        break;
      case 3:
        text.erase(at, stretch(text.size() - at));
        break;
      case 4:  // Say something twice.
        insert(text, below(text.size() + 1), text.substr(at, stretch(text.size() - at)));
        break;
      case 5: {  // A piece of another seed.
        const std::string& other = pick(corpus_.seeds);
        const std::size_t from = below(other.size() + 1);
        insert(text, at, other.substr(from, stretch(other.size() - from)));
        break;
      }
      case 6:
        insert(text, at, pick(corpus_.words));
        break;
      case 7:  // A word in place of what stands there.
        text.replace(at, stretch(text.size() - at), pick(corpus_.words));
        break;
      case 8:
        number(text, at);
        break;
      case 9:  // Eight bytes as a length or an offset.
        if (text.size() >= 8) {
          const std::uint64_t value = kNumbers[below(kNumbers.size())];
          std::memcpy(text.data() + below(text.size() - 7), &value, 8);
        }
        break;
      default:
        if (below(4) == 0) text.resize(at);  // Truncate.
    }
    if (text.size() > kLongest) text.resize(kLongest);
  }

  static void insert(std::string& text, std::size_t at, const std::string& what) {
    text.insert(std::min(at, text.size()), what);
  }

  /// Changes the next decimal number behind `at`.
  void number(std::string& text, std::size_t at) {
    constexpr std::string_view kDigits = "0123456789";
    const std::size_t begin = text.find_first_of(kDigits, at);
    if (begin == std::string::npos) return;
    const std::size_t end = std::min(text.find_first_not_of(kDigits, begin), text.size());
    static const std::vector<std::string> kTexts = {"0",
                                                    "1",
                                                    "-1",
                                                    "2",
                                                    "7",
                                                    "8",
                                                    "9",
                                                    "63",
                                                    "64",
                                                    "65",
                                                    "255",
                                                    "256",
                                                    "1e3",
                                                    "1.5",
                                                    "1e999",
                                                    "-0",
                                                    "01",
                                                    "4294967296",
                                                    "2147483647",
                                                    "2147483648",
                                                    "9223372036854775807",
                                                    "9223372036854775808",
                                                    "18446744073709551615",
                                                    "18446744073709551616",
                                                    "null",
                                                    "\"1\""};
    text.replace(begin, end - begin, pick(kTexts));
  }

  static constexpr std::array<std::uint64_t, 12> kNumbers = {0,          1,
                                                             2,          8,
                                                             0x7F,       0xFF,
                                                             0xFFFF,     0x7FFFFFFF,
                                                             0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF,
                                                             1ULL << 63, ~std::uint64_t{0}};

  const Corpus& corpus_;
  std::uint64_t state_;
};

/// Bytes as they can be pasted back into a test.
inline std::string escaped(std::string_view bytes) {
  constexpr std::size_t kLongest = 2000;
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (const char c : bytes.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= ' ' && byte < 0x7F && c != '\\' && c != '"') {
      out += c;
    } else {
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return bytes.size() > kLongest ? out + "…" : out;
}

/// Runs the seeds and then mutants of them: RAREFY_FUZZ_ITERATIONS (3000), for at most
/// RAREFY_FUZZ_SECONDS (2). Returns what went wrong, or nothing.
inline std::string run(void (*target)(std::string_view), const Corpus& corpus) {
  const auto setting = [](const char* name, double otherwise) {
    const char* value = std::getenv(name);
    return value != nullptr ? std::atof(value) : otherwise;
  };
  const auto iterations = static_cast<std::uint64_t>(setting("RAREFY_FUZZ_ITERATIONS", 3000));
  const std::chrono::duration<double> limit(setting("RAREFY_FUZZ_SECONDS", 2));
  const auto start = std::chrono::steady_clock::now();
  const std::uint64_t seeds = corpus.seeds.size();
  for (std::uint64_t i = 0; i < seeds + iterations; ++i) {
    if (i >= seeds && std::chrono::steady_clock::now() - start > limit) break;
    const std::string input = i < seeds ? corpus.seeds[i] : Mutator(corpus, i).next();
    try {
      run_one(target, input);
    } catch (const std::exception& e) {
      return "iteration " + std::to_string(i) + ": " + e.what() + "\ninput: \"" + escaped(input) +
             "\"";
    }
  }
  return {};
}

/// With RAREFY_FUZZ_CORPUS=DIR, writes the seeds to DIR/seeds and the words to DIR/words.dict, as
/// libFuzzer takes them, and ends the program.
inline void write_corpus_if_asked(const Corpus& corpus) {
  const char* asked = std::getenv("RAREFY_FUZZ_CORPUS");
  if (asked == nullptr) return;
  const std::filesystem::path folder = asked;
  std::filesystem::create_directories(folder / "seeds");
  for (std::size_t i = 0; i < corpus.seeds.size(); ++i) {
    std::ofstream(folder / "seeds" / std::to_string(i), std::ios::binary) << corpus.seeds[i];
  }
  std::ofstream words(folder / "words.dict");
  for (const std::string& word : corpus.words) {
    if (!word.empty()) words << '"' << escaped(word) << "\"\n";
  }
  words.close();
  std::exit(words ? 0 : 1);
}

}  // namespace rarefy::fuzz

#ifdef RAREFY_LIBFUZZER
#define RAREFY_FUZZ_TARGET(Name, target, ...)                                         \
  extern "C" int LLVMFuzzerInitialize(int*, char***) {                                \
    ::rarefy::fuzz::write_corpus_if_asked(__VA_ARGS__);                               \
    return 0;                                                                         \
  }                                                                                   \
  extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) { \
    ::rarefy::fuzz::run_one(target, {reinterpret_cast<const char*>(data), size});     \
    return 0;                                                                         \
  }
#else
#include <gtest/gtest.h>
#define RAREFY_FUZZ_TARGET(Name, target, ...)                      \
  TEST(Fuzz, Name) {                                               \
    const ::rarefy::fuzz::Corpus corpus = __VA_ARGS__;             \
    EXPECT_EQ(::rarefy::fuzz::run(target, corpus), std::string()); \
  }
#endif
