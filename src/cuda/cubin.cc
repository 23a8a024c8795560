// A cubin is an ELF file. A kernel f has a function symbol whose section is .text.f, its static
// shared memory is the size of .nv.shared.f, and the section .nv.info lists attributes, each a
// format byte, an attribute byte, and a value: two bytes in place, or (format 4) a length of two
// bytes and as many bytes. Those that we read hold a symbol's index and a number.
#include "cuda/cubin.h"

#include <elf.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>

#include "base/check.h"

namespace rarefy::cuda {
namespace {

constexpr int kMachineCuda = 190;
constexpr std::uint8_t kSizedValue = 4;
constexpr std::uint8_t kFrameSize = 0x11;
constexpr std::uint8_t kRegisterCount = 0x2F;
/// From sm_90 on the first KiB of shared memory belongs to the driver and is counted in the
/// section.
constexpr std::size_t kReservedShared = 1024;
constexpr unsigned kFirstArchThatReserves = 90;

[[noreturn]] void corrupt(const char* what) {
  fail(ErrorKind::kCorrupt, "cubin: {}", what);
}

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <class T>
  [[nodiscard]] T at(std::uint64_t offset, const char* what) const {
    if (offset > bytes_.size() || bytes_.size() - offset < sizeof(T)) corrupt(what);
    T value;
    std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }
  [[nodiscard]] std::span<const std::byte> part(std::uint64_t offset, std::uint64_t size,
                                                const char* what) const {
    if (offset > bytes_.size() || bytes_.size() - offset < size) corrupt(what);
    return bytes_.subspan(offset, size);
  }
  [[nodiscard]] std::string text(std::uint64_t offset, const char* what) const {
    if (offset >= bytes_.size()) corrupt(what);
    const char* begin = reinterpret_cast<const char*>(bytes_.data()) + offset;
    const std::size_t most = bytes_.size() - offset;
    const std::size_t length = strnlen(begin, most);
    if (length == most) corrupt(what);
    return {begin, length};
  }
  [[nodiscard]] std::size_t size() const { return bytes_.size(); }

 private:
  std::span<const std::byte> bytes_;
};

struct Section {
  Elf64_Shdr header{};
  std::string name;
};

std::vector<Section> read_sections(const Reader& file, const Elf64_Ehdr& header) {
  if (header.e_shentsize != sizeof(Elf64_Shdr)) corrupt("sections of another size");
  std::vector<Section> sections(header.e_shnum);
  for (std::size_t i = 0; i < sections.size(); ++i)
    sections[i].header =
        file.at<Elf64_Shdr>(header.e_shoff + i * sizeof(Elf64_Shdr), "a cut section table");
  if (header.e_shstrndx >= sections.size()) corrupt("no section names");
  const Elf64_Shdr names = sections[header.e_shstrndx].header;
  const Reader strings(file.part(names.sh_offset, names.sh_size, "cut section names"));
  for (Section& section : sections)
    section.name = strings.text(section.header.sh_name, "a section name outside");
  return sections;
}

/// Calls `visit(attribute, symbol, number)` for the attributes that are a symbol and a number.
template <class Visit>
void read_attributes(const Reader& info, const Visit& visit) {
  for (std::uint64_t at = 0; at < info.size();) {
    const auto format = info.at<std::uint8_t>(at, "cut attributes");
    const auto attribute = info.at<std::uint8_t>(at + 1, "cut attributes");
    const auto size = info.at<std::uint16_t>(at + 2, "cut attributes");
    at += 4;
    if (format != kSizedValue) continue;  // The two bytes were the value.
    if (size == 8)
      visit(attribute, info.at<std::uint32_t>(at, "cut attributes"),
            info.at<std::uint32_t>(at + 4, "cut attributes"));
    at += size;
  }
}

}  // namespace

std::vector<KernelFacts> read_kernel_facts(std::span<const std::byte> image) {
  const Reader file(image);
  const auto header = file.at<Elf64_Ehdr>(0, "shorter than its header");
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_machine != kMachineCuda)
    corrupt("expected a 64-bit ELF file for a GPU");
  const std::vector<Section> sections = read_sections(file, header);
  // The arch is the second byte of the flags (ABI 8), or the first (before).
  const unsigned arch =
      header.e_ident[EI_ABIVERSION] >= 8 ? header.e_flags >> 8 & 0xFF : header.e_flags & 0xFF;

  std::map<std::uint32_t, KernelFacts> kernels;  // By symbol.
  for (const Section& section : sections) {
    if (section.header.sh_type != SHT_SYMTAB) continue;
    if (section.header.sh_link >= sections.size()) corrupt("symbols without names");
    const Elf64_Shdr names = sections[section.header.sh_link].header;
    const Reader strings(file.part(names.sh_offset, names.sh_size, "cut symbol names"));
    const Reader symbols(
        file.part(section.header.sh_offset, section.header.sh_size, "a cut symbol table"));
    for (std::uint32_t i = 0; (i + 1) * sizeof(Elf64_Sym) <= symbols.size(); ++i) {
      const auto symbol = symbols.at<Elf64_Sym>(i * sizeof(Elf64_Sym), "a cut symbol");
      if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_shndx >= sections.size()) continue;
      KernelFacts facts;
      facts.name = strings.text(symbol.st_name, "a symbol name outside");
      // Functions that are called, not launched, lie in the section of a kernel.
      if (sections[symbol.st_shndx].name != ".text." + facts.name) continue;
      facts.code = symbol.st_size;
      kernels.emplace(i, std::move(facts));
    }
  }
  for (const Section& section : sections) {
    if (section.name == ".nv.info") {
      const Reader info(
          file.part(section.header.sh_offset, section.header.sh_size, "cut attributes"));
      read_attributes(info, [&](std::uint8_t attribute, std::uint32_t symbol, std::uint32_t value) {
        const auto found = kernels.find(symbol);
        if (found == kernels.end()) return;
        if (attribute == kRegisterCount) found->second.registers = static_cast<int>(value);
        if (attribute == kFrameSize) found->second.local = value;
      });
    }
    for (auto& [symbol, facts] : kernels) {
      if (section.name != ".nv.shared." + facts.name) continue;
      const std::size_t reserved = arch >= kFirstArchThatReserves ? kReservedShared : 0;
      facts.shared =
          section.header.sh_size - std::min<std::size_t>(reserved, section.header.sh_size);
    }
  }
  std::vector<KernelFacts> result;
  result.reserve(kernels.size());
  for (auto& [symbol, facts] : kernels) result.push_back(std::move(facts));
  std::sort(result.begin(), result.end(),
            [](const KernelFacts& a, const KernelFacts& b) { return a.name < b.name; });
  return result;
}

const KernelFacts& Cubin::kernel(std::string_view name) const {
  for (const KernelFacts& facts : kernels) {
    if (facts.name == name) return facts;
  }
  fail(ErrorKind::kInternal, "cubin: no kernel {}", name);
}

}  // namespace rarefy::cuda
