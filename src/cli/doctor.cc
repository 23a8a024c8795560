// rarefy doctor: what this machine offers, and what Rarefy would use.
#include <cstdio>
#include <map>

#include "cli/terminal.h"
#include "cli/verb.h"
#include "cli/version.h"
#include "rarefy/cpu.h"
#include "rarefy/spmm.h"
#include "rarefy/threads.h"

namespace rarefy::cli {
namespace {

void run(const Session& session) {
  const CpuInfo& cpu = cpu_info();
  Planner planner = session.make_planner();
  const MachineCeilings& ceilings = planner.ceilings();
  std::map<Isa, int> kernels;
  for (const SpmmKernel* kernel : spmm_kernels()) ++kernels[kernel->isa()];
  if (session.json) {
    OrderedJson counts;
    for (const auto& [isa, count] : kernels) counts[to_string(isa)] = count;
    return print_json({{"version", RAREFY_VERSION},
                       {"commit", commit()},
                       {"cpu", cpu.brand},
                       {"cores", cpu.cores},
                       {"threads", default_pool().size()},
                       {"isa", to_string(active_isa())},
                       {"avx2", cpu.avx2},
                       {"avx512", cpu.avx512},
                       {"amx", cpu.amx},
                       {"l1d_bytes", cpu.l1d_bytes},
                       {"l2_bytes", cpu.l2_bytes},
                       {"l3_bytes", cpu.l3_bytes},
                       {"dram_gb_per_s", ceilings.dram_gb_per_s},
                       {"cache_gb_per_s", ceilings.cache_gb_per_s},
                       {"ghz", ceilings.ghz},
                       {"kernels", counts},
                       {"cuda", nullptr}});
  }
  const auto line = [](const char* what, const std::string& value) {
    std::printf("%-14s %s\n", what, value.c_str());
  };
  const auto yes = [](bool has) { return has ? "yes" : "no"; };
  line("rarefy", std::string(RAREFY_VERSION) + " (" + commit() + ")");
  line("CPU", cpu.brand + ", " + std::to_string(cpu.cores) + " usable cores, " +
                  std::to_string(default_pool().size()) + " threads used");
  line("instructions", std::string("AVX2 ") + yes(cpu.avx2) + ", AVX-512 (VBMI2, BF16) " +
                           yes(cpu.avx512) + ", AMX " + yes(cpu.amx) + "; kernels use " +
                           to_string(active_isa()));
  line("caches", "L1d " + human_bytes(static_cast<double>(cpu.l1d_bytes)) + ", L2 " +
                     human_bytes(static_cast<double>(cpu.l2_bytes)) + ", L3 " +
                     human_bytes(static_cast<double>(cpu.l3_bytes)));
  std::printf("%-14s %.1f GB/s from memory, %.1f GB/s from cache, %.2f GHz under vector load\n",
              "ceilings", ceilings.dram_gb_per_s, ceilings.cache_gb_per_s, ceilings.ghz);
  std::string counts;
  for (const auto& [isa, count] : kernels)
    counts += (counts.empty() ? "" : ", ") + std::to_string(count) + " " + to_string(isa);
  line("kernels", counts);
  line("GPU", "not in this build: it runs on the CPU");
  if (active_isa() == Isa::kPortable)
    line("advice", "no vector instructions are used: expect 10 to 50 times less speed");
}

}  // namespace

void add_doctor(CLI::App& app, Session& session) {
  CLI::App* verb =
      app.add_subcommand("doctor", "Say what this machine offers and what Rarefy uses of it");
  verb->fallthrough();
  verb->callback([&session] { run(session); });
}

}  // namespace rarefy::cli
