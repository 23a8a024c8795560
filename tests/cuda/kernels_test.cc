// Every kernel of every search space, compiled for every GPU generation, without a GPU.
//
// A spill is a failure where the source does not allow it. Registers are compared with
// tests/cuda/registers.txt when this machine's NVRTC is the one that made it, and differences
// shown: whether more registers are worse, a benchmark says.
//   RAREFY_ALL_KERNELS=1        compiles all (minutes on two cores); else a sample
//   RAREFY_UPDATE_REGISTERS=1   compiles all and writes the table anew
//   RAREFY_UPDATE_REGISTERS=gather.   compiles those whose names begin so, keeps the others' rows
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <sstream>

#include "cuda/compiler.h"
#include "nvrtc_or_skip.h"
#include "ops/spmm/cuda/device_spmm.h"
#include "rarefy/threads.h"
#include "shared_data.h"

namespace rarefy::gpu {
namespace {

bool flag(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && std::string_view(value) == "1";
}

std::vector<cuda::Source> all_sources(std::string_view prefix = {}) {
  std::vector<cuda::Source> sources;
  for (const Family* family : families()) {
    for (cuda::Source& source : family->all_sources())
      if (source.name.starts_with(prefix)) sources.push_back(std::move(source));
  }
  return sources;
}

/// Registers of a source's hungriest kernel, one a tested GPU generation; 0 where it is not
/// compiled.
using Row = std::array<int, std::size(cuda::kTestedArchs)>;
using Table = std::map<std::string, Row>;

std::size_t index_of(const cuda::Arch& arch) {
  return static_cast<std::size_t>(
      std::find(std::begin(cuda::kTestedArchs), std::end(cuda::kTestedArchs), arch) -
      std::begin(cuda::kTestedArchs));
}

std::string table_header() {
  std::string header =
      fmt::format("# Registers a thread as NVRTC {} compiles for", cuda::compiler_state().version);
  for (const cuda::Arch& arch : cuda::kTestedArchs) header += ' ' + arch.name();
  return header;
}

/// Empty when another NVRTC made it.
Table read_table() {
  std::ifstream in(testing::source_path("tests/cuda/registers.txt"));
  std::string line;
  if (!std::getline(in, line) || line != table_header()) return {};
  Table table;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    for (int& registers : table[name]) words >> registers;
  }
  return table;
}

void write_table(const Table& table) {
  std::ofstream out(testing::source_path("tests/cuda/registers.txt"));
  out << table_header() << '\n';
  for (const auto& [name, row] : table) {
    out << name;
    for (int registers : row) out << ' ' << registers;
    out << '\n';
  }
}

TEST(Kernels, NamesAreUnique) {
  std::set<std::string> names;
  for (const cuda::Source& source : all_sources())
    EXPECT_TRUE(names.insert(source.name).second) << source.name;
}

TEST(Kernels, CompileForEveryGenerationWithoutSpills) {
  RAREFY_SKIP_WITHOUT_NVRTC();
  const char* updated = std::getenv("RAREFY_UPDATE_REGISTERS");
  const bool update = updated != nullptr;
  const std::string prefix = update && !flag("RAREFY_UPDATE_REGISTERS") ? updated : "";
  const std::vector<cuda::Source> sources = all_sources(prefix);
  // A prime, so that the sample goes through every dimension of the spaces.
  const std::size_t step = update || flag("RAREFY_ALL_KERNELS") ? 1 : 211;
  std::vector<std::pair<const cuda::Source*, cuda::Arch>> work;
  std::size_t at = 0;
  for (const cuda::Source& source : sources) {
    for (const cuda::Arch& arch : cuda::kTestedArchs) {
      if (arch.number() < source.oldest_arch || arch.number() > source.newest_arch) continue;
      if (!cuda::can_compile(arch)) continue;
      if (at++ % step == 0) work.emplace_back(&source, arch);
    }
  }
  const Table expected = read_table();
  Table table;
  if (update) {
    for (const auto& [name, row] : expected)
      if (!name.starts_with(prefix)) table[name] = row;
  }
  int unknown = 0;  // New kernels: the table is written anew now and then, not with every one.
  std::vector<std::string> problems;
  std::vector<std::string> changes;
  std::mutex mutex;
  default_pool().parallel_dynamic(
      static_cast<std::int64_t>(work.size()), 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const auto& [source, arch] = work[static_cast<std::size_t>(i)];
          std::vector<cuda::KernelFacts> kernels;
          std::string problem;
          try {
            kernels = cuda::compile(*source, arch).kernels;
          } catch (const Error& error) {
            problem = error.what();
          }
          const std::scoped_lock lock(mutex);
          if (!problem.empty()) problems.push_back(problem);
          int registers = 0;
          for (const cuda::KernelFacts& kernel : kernels) {
            registers = std::max(registers, kernel.registers);
            if (kernel.local > source->local_bytes)
              problems.push_back(fmt::format("{} for {}: {} bytes of local memory", source->name,
                                             arch.name(), kernel.local));
          }
          table[source->name][index_of(arch)] = registers;
          const auto known = expected.find(source->name);
          if (known == expected.end()) {
            ++unknown;
          } else if (known->second[index_of(arch)] != registers) {
            changes.push_back(fmt::format("{} for {}: {} registers, formerly {}", source->name,
                                          arch.name(), registers, known->second[index_of(arch)]));
          }
        }
      });
  constexpr std::size_t kMostShown = 40;
  for (std::size_t i = 0; i < problems.size() && i < kMostShown; ++i) ADD_FAILURE() << problems[i];
  EXPECT_EQ(problems.size(), 0U) << "of " << work.size() << " compilations";
  if (update) write_table(table);
  for (std::size_t i = 0; i < changes.size() && i < kMostShown; ++i)
    std::printf("%s\n", changes[i].c_str());
  if ((unknown > 0 || !changes.empty()) && !update)
    std::printf("%zu of %zu have changed and %d are not in tests/cuda/registers.txt\n",
                changes.size(), work.size(), unknown);
}

}  // namespace
}  // namespace rarefy::gpu
