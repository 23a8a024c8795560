#include "rarefy/cpu.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/check.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif

namespace rarefy {
namespace {

#if defined(__x86_64__)

constexpr std::uint64_t kYmmState = 0x6;       // XCR0: SSE and AVX
constexpr std::uint64_t kZmmState = 0xE6;      // … and opmask, ZMM_Hi256, Hi16_ZMM
constexpr std::uint64_t kTileState = 0x60000;  // XTILECFG and XTILEDATA

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool bit(unsigned value, int index) {
  return ((value >> index) & 1U) != 0;
}

std::uint64_t xcr0() {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

/// Linux grants the 8 KiB of tile data on request only (ARCH_REQ_XCOMP_PERM, feature 18).
bool request_tile_state() {
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXtileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXtileData) == 0;
}

std::string brand_string() {
  if (cpuid(0x80000000U).eax < 0x80000004U) return "unknown";
  std::array<char, 49> text{};
  for (unsigned i = 0; i < 3; ++i) {
    const Registers r = cpuid(0x80000002U + i);
    std::memcpy(text.data() + 16 * i, &r, 16);
  }
  std::string brand(text.data());
  brand.erase(0, brand.find_first_not_of(' '));
  brand.erase(brand.find_last_not_of(' ') + 1);
  return brand;
}

void detect_features(CpuInfo& info) {
  const Registers leaf1 = cpuid(1);
  if (!bit(leaf1.ecx, 27)) return;  // OSXSAVE
  const std::uint64_t state = xcr0();
  const Registers leaf7 = cpuid(7);
  const Registers leaf7_1 = cpuid(7, 1);
  info.avx2 = (state & kYmmState) == kYmmState && bit(leaf7.ebx, 5) && bit(leaf1.ecx, 12) &&
              bit(leaf1.ecx, 29) && bit(leaf7.ebx, 3) &&
              bit(leaf7.ebx, 8);  // AVX2, FMA, F16C, BMI1, BMI2
  info.avx512 = info.avx2 && (state & kZmmState) == kZmmState && bit(leaf7.ebx, 16) &&
                bit(leaf7.ebx, 17) && bit(leaf7.ebx, 28) && bit(leaf7.ebx, 30) &&
                bit(leaf7.ebx, 31) && bit(leaf7.ecx, 1) && bit(leaf7.ecx, 6) &&
                bit(leaf7.ecx, 12) && bit(leaf7.ecx, 14) &&
                bit(leaf7_1.eax, 5);  // F DQ CD BW VL VBMI VBMI2 BITALG VPOPCNTDQ BF16
  info.avx512_fp16 = info.avx512 && bit(leaf7.edx, 23);
  info.amx = info.avx512 && (state & kTileState) == kTileState && bit(leaf7.edx, 24) &&
             bit(leaf7.edx, 22) && request_tile_state();
}

#endif

CpuInfo detect() {
  CpuInfo info;
#if defined(__x86_64__)
  info.brand = brand_string();
  detect_features(info);
#else
  info.brand = "unknown";
#endif
  cpu_set_t set;
  CPU_ZERO(&set);
  info.cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  info.l1d_bytes = std::max(0L, sysconf(_SC_LEVEL1_DCACHE_SIZE));
  info.l2_bytes = std::max(0L, sysconf(_SC_LEVEL2_CACHE_SIZE));
  info.l3_bytes = std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE));
  return info;
}

Isa best_isa() {
  const CpuInfo& cpu = cpu_info();
  if (cpu.amx) return Isa::kAmx;
  if (cpu.avx512) return Isa::kAvx512;
  return cpu.avx2 ? Isa::kAvx2 : Isa::kPortable;
}

void check_available(Isa isa) {
  if (isa > best_isa()) {
    fail(ErrorKind::kUnsupported, "instruction set: asked for {}, this CPU ({}) offers {}",
         to_string(isa), cpu_info().brand, to_string(best_isa()));
  }
}

Isa isa_from_environment() {
  const char* value = std::getenv("RAREFY_ISA");
  if (value == nullptr || *value == '\0') return best_isa();
  const std::optional<Isa> isa = parse_isa(value);
  require(isa.has_value(), "RAREFY_ISA: expected portable, avx2, avx512 or amx, got '{}'", value);
  check_available(*isa);
  return *isa;
}

std::atomic<int> forced_isa{-1};

}  // namespace

const char* to_string(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAmx:
      return "amx";
  }
  return "portable";
}

std::optional<Isa> parse_isa(std::string_view name) {
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (name == to_string(isa)) return isa;
  }
  return std::nullopt;
}

const CpuInfo& cpu_info() {
  static const CpuInfo info = detect();
  return info;
}

Isa active_isa() {
  const int forced = forced_isa.load(std::memory_order_relaxed);
  if (forced >= 0) return static_cast<Isa>(forced);
  static const Isa isa = isa_from_environment();
  return isa;
}

void force_isa(std::optional<Isa> isa) {
  if (isa) check_available(*isa);
  forced_isa.store(isa ? static_cast<int>(*isa) : -1, std::memory_order_relaxed);
}

}  // namespace rarefy
