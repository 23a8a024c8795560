#include "io/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

#include "base/check.h"
#include "io/tokenizer/fields.h"
#include "io/tokenizer/pattern.h"
#include "io/tokenizer/unicode.h"

namespace rarefy::tokenizer {
namespace {

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string text) : text_(std::move(text)) {}
  void apply(Section& section) const override {
    if (!section.text.empty()) section.text.insert(0, text_);
  }

 private:
  std::string text_;
};

class Replace final : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(Section& section) const override {
    std::string out;
    std::size_t last = 0;
    pattern_.for_each_match(section.text, [&](std::size_t begin, std::size_t end) {
      out.append(section.text, last, begin - last);
      out += content_;
      if (begin == 0 && end > 0 && content_.empty()) section.at_start = false;
      last = end;
    });
    if (last == 0 && out.empty()) return;
    out.append(section.text, last);
    section.text = std::move(out);
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class NormalForm final : public Normalizer {
 public:
  explicit NormalForm(int options)
      : options_(static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE)) {}
  void apply(Section& section) const override {
    const bool ascii = std::all_of(section.text.begin(), section.text.end(),
                                   [](char c) { return static_cast<unsigned char>(c) < 0x80; });
    if (ascii) return;
    utf8proc_uint8_t* mapped = nullptr;
    const utf8proc_ssize_t length =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(section.text.data()),
                     static_cast<utf8proc_ssize_t>(section.text.size()), &mapped, options_);
    if (length < 0) {
      fail(ErrorKind::kOutOfMemory, "normalising {} bytes of text: {}", section.text.size(),
           utf8proc_errmsg(length));
    }
    section.text.assign(reinterpret_cast<const char*>(mapped), static_cast<std::size_t>(length));
    std::free(mapped);
  }

 private:
  utf8proc_option_t options_;
};

// Characters one by one: each becomes what `Map` appends.
template <class Map>
class PerCharacter final : public Normalizer {
 public:
  explicit PerCharacter(Map map) : map_(map) {}
  void apply(Section& section) const override {
    std::string out;
    out.reserve(section.text.size());
    for (std::size_t at = 0; at < section.text.size();) {
      const CodePoint c = code_point_at(section.text, at);
      map_(out, c.value);
      if (at == 0 && out.empty()) section.at_start = false;
      at += c.length;
    }
    section.text = std::move(out);
  }

 private:
  Map map_;
};

template <class Map>
std::unique_ptr<const Normalizer> per_character(Map map) {
  return std::make_unique<PerCharacter<Map>>(map);
}

class Strip final : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(Section& section) const override {
    std::string_view text = section.text;
    while (left_ && !text.empty()) {
      const CodePoint c = code_point_at(text, 0);
      if (!is_white_space(c.value)) break;
      text.remove_prefix(c.length);
      section.at_start = false;
    }
    while (right_ && !text.empty()) {
      const CodePoint c = code_point_before(text, text.size());
      if (!is_white_space(c.value)) break;
      text.remove_suffix(c.length);
    }
    section.text = std::string(text);
  }

 private:
  bool left_, right_;
};

class ByteLevel final : public Normalizer {
 public:
  void apply(Section& section) const override {
    std::string out;
    append_byte_level(out, section.text);
    section.text = std::move(out);
  }
};

void read_into(Normalizers& out, const Json& json, const std::string& where) {
  const Fields fields(json, where);
  const std::string type = fields.type();
  if (type == "Sequence") {
    const Json& list = fields.array("normalizers");
    for (std::size_t i = 0; i < list.size(); ++i)
      read_into(out, list[i], fmt::format("{}.normalizers[{}]", where, i));
  } else if (type == "Prepend") {
    out.push_back(std::make_unique<Prepend>(fields.text("prepend")));
  } else if (type == "Replace") {
    out.push_back(std::make_unique<Replace>(read_pattern(fields), fields.text("content")));
  } else if (type == "NFC") {
    out.push_back(std::make_unique<NormalForm>(UTF8PROC_COMPOSE));
  } else if (type == "NFD") {
    out.push_back(std::make_unique<NormalForm>(UTF8PROC_DECOMPOSE));
  } else if (type == "NFKC") {
    out.push_back(std::make_unique<NormalForm>(UTF8PROC_COMPOSE | UTF8PROC_COMPAT));
  } else if (type == "NFKD") {
    out.push_back(std::make_unique<NormalForm>(UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT));
  } else if (type == "Lowercase") {
    out.push_back(per_character(append_lower_case));
  } else if (type == "StripAccents") {
    out.push_back(per_character([](std::string& text, char32_t c) {
      if (!is_mark(c)) append_utf8(text, c);
    }));
  } else if (type == "Strip") {
    out.push_back(std::make_unique<Strip>(fields.boolean("strip_left", true),
                                          fields.boolean("strip_right", true)));
  } else if (type == "ByteLevel") {
    out.push_back(std::make_unique<ByteLevel>());
  } else {
    fields.unsupported_type(
        "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents or "
        "ByteLevel");
  }
}

}  // namespace

Normalizers read_normalizers(const Json& json, const std::string& where) {
  Normalizers out;
  if (!json.is_null()) read_into(out, json, where);
  return out;
}

}  // namespace rarefy::tokenizer
