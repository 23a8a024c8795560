// rarefy doctor: what this machine offers, and what Rarefy would use.
#include <cstdio>
#include <map>

#include "cli/terminal.h"
#include "cli/verb.h"
#include "cli/version.h"
#include "rarefy/cpu.h"
#include "rarefy/device.h"
#include "rarefy/spmm.h"
#include "rarefy/threads.h"

namespace rarefy::cli {
namespace {

OrderedJson gpu_json() {
  OrderedJson libraries = OrderedJson::array();
  for (const GpuLibrary& library : gpu_libraries())
    libraries.push_back({{"name", library.name},
                         {"version", library.version},
                         {"file", library.file},
                         {"place", library.place},
                         {"error", library.error}});
  OrderedJson devices = OrderedJson::array();
  for (const GpuDevice& device : gpu_devices())
    devices.push_back({{"index", device.index},
                       {"name", device.name},
                       {"arch", device.arch},
                       {"multiprocessors", device.multiprocessors},
                       {"memory_bytes", device.memory_bytes},
                       {"l2_bytes", device.l2_bytes},
                       {"clock_ghz", device.clock_ghz},
                       {"memory_gb_per_s", device.memory_gb_per_s},
                       {"usable", device.usable.ok},
                       {"reason", device.usable.reason}});
  return {{"libraries", libraries}, {"devices", devices}};
}

/// One line a GPU and a library; what is missing says where it was looked for.
void print_gpus() {
  const std::vector<GpuDevice> devices = gpu_devices();
  for (const GpuDevice& d : devices) {
    std::printf("%-14s %s (%s), %d multiprocessors at %.2f GHz, %s at %.0f GB/s, L2 %s%s\n", "GPU",
                d.name.c_str(), d.arch.c_str(), d.multiprocessors, d.clock_ghz,
                human_bytes(static_cast<double>(d.memory_bytes)).c_str(), d.memory_gb_per_s,
                human_bytes(static_cast<double>(d.l2_bytes)).c_str(),
                d.usable ? "" : (": not used: " + d.usable.reason).c_str());
  }
  if (devices.empty()) std::printf("%-14s none\n", "GPU");
  for (const GpuLibrary& library : gpu_libraries()) {
    const std::string what = library.error.empty()
                                 ? (library.version.empty() ? "" : library.version + ", ") +
                                       library.file + " (" + library.place + ")"
                                 : library.error;
    std::printf("%-14s %s\n", ("  " + library.name).c_str(), what.c_str());
  }
}

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
                       {"gpu", gpu_json()}});
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
  print_gpus();
  if (active_isa() == Isa::kPortable)
    line("advice", "no vector instructions are used: expect 10 to 50 times less speed");
}

}  // namespace

void add_doctor(CLI::App& app, Session& session) {
  CLI::App* verb =
      app.add_subcommand("doctor", "Say what this machine offers and what Rarefy uses of it");
  verb->fallthrough();
  verb->footer("Example:\n  rarefy doctor --json");
  verb->callback([&session] { run(session); });
}

}  // namespace rarefy::cli
