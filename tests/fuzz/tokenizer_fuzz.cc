
#include "mutator.h"
#include "rarefy/tokenizer.h"

namespace rarefy {
namespace {

void parse(std::string_view input) {
  const auto tokenizer = Tokenizer::from_json(input, "tokenizer.json");
  const std::vector<TokenId> ids = tokenizer->encode("Hello,\n  wörld 123 \xFF <s>");
  (void)tokenizer->decode(ids);
  (void)tokenizer->decode(ids, false);
}

/// A byte-level and a SentencePiece-style tokenizer of a few tokens each.
const char* const kByteLevel =
    R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":5,"content":"<s>",)"
    R"("single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],)"
    R"("normalizer":null,"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split",)"
    R"("pattern":{"Regex":"\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},)"
    R"("behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,)"
    R"("trim_offsets":true,"use_regex":false}]},"post_processor":{"type":"TemplateProcessing",)"
    R"("single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],)"
    R"("pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],)"
    R"("special_tokens":{"<s>":{"id":"<s>","ids":[5],"tokens":["<s>"]}}},)"
    R"("decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,)"
    R"("use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,)"
    R"("continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,)"
    R"("byte_fallback":false,"ignore_merges":true,"vocab":{"H":0,"e":1,"l":2,"o":3,"lo":4},)"
    R"("merges":[["l","o"]]}})";
const char* const kSentencePiece =
    R"({"version":"1.0","added_tokens":[{"id":0,"content":"<unk>","single_word":false,)"
    R"("lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":)"
    R"({"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace",)"
    R"("pattern":{"String":" "},"content":"▁"}]},"pre_tokenizer":null,"post_processor":null,)"
    R"("decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},)"
    R"("content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ",)"
    R"("start":1,"stop":0}]},"model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,)"
    R"("byte_fallback":true,"vocab":{"<unk>":0,"<0x0A>":1,"▁":2,"H":3,"e":4,"▁H":5},)"
    R"("merges":["▁ H"]}})";

}  // namespace

RAREFY_FUZZ_TARGET(Tokenizer, parse,
                   (fuzz::Corpus{.seeds = {kByteLevel, kSentencePiece},
                                 .words = {"null",        "true",
                                           "{}",          "[]",
                                           "\"type\":\"", "\"Regex\":\"",
                                           "\\\\p{L}",    "(?=",
                                           "(a*)*",       "\"String\":\"",
                                           "\"id\":",     "\"merges\":[",
                                           "\"l o\"",     "\"ByteLevel\"",
                                           "\"NFC\"",     "\"Metaspace\"",
                                           ",",           "\"",
                                           "}",           "]"}}))

}  // namespace rarefy
