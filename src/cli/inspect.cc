// rarefy inspect: what is in a checkpoint, tensor by tensor, and how its nonzeros lie.
#include <algorithm>
#include <cstdio>
#include <fstream>

#include "base/check.h"
#include "base/files.h"
#include "cli/charts.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "rarefy/checkpoint.h"
#include "rarefy/matrix.h"

namespace rarefy::cli {
namespace {

struct Flags {
  std::string model;
  std::string svg;
  bool all = false;
};

struct Row {
  CheckpointTensor tensor;
  std::int64_t nnz = -1;       ///< -1 where the dtype has no notion of it (integers).
  double least = 0, most = 0;  ///< Density of the emptiest and the fullest 16×32 block.

  [[nodiscard]] std::int64_t elements() const {
    std::int64_t count = 1;
    for (std::int64_t d : tensor.shape) count *= d;
    return count;
  }
  [[nodiscard]] double density() const {
    return elements() > 0 ? static_cast<double>(nnz) / static_cast<double>(elements()) : 0;
  }
};

Row look_at(const Checkpoint& checkpoint, const CheckpointTensor& tensor,
            const std::string& svg_folder) {
  Row row{tensor};
  if (!is_compute_dtype(tensor.dtype) || tensor.shape.empty() || tensor.shape.size() > 2)
    return row;
  const auto source = checkpoint.source(tensor.name);
  const PatternStats stats = pattern_stats(*source);
  row.nnz = stats.nnz;
  std::tie(row.least, row.most) = block_density_range(stats);
  if (!svg_folder.empty() && tensor.shape.size() == 2) {
    AtomicFile file(std::filesystem::path(svg_folder) / (tensor.name + ".svg"));
    file.write(density_map(stats, tensor.name));
    file.commit();
  }
  checkpoint.drop_pages(tensor.name);
  return row;
}

OrderedJson as_json(const std::vector<Row>& rows) {
  OrderedJson list = OrderedJson::array();
  for (const Row& row : rows) {
    OrderedJson item{{"name", row.tensor.name},
                     {"shape", row.tensor.shape},
                     {"dtype", to_string(row.tensor.dtype)},
                     {"format", to_string(row.tensor.storage)},
                     {"nnz", row.nnz},
                     {"density", row.density()},
                     {"bytes", row.tensor.bytes},
                     {"dense_bytes", row.tensor.dense_bytes},
                     {"block_density_min", row.least},
                     {"block_density_max", row.most}};
    if (row.nnz < 0) item["nnz"] = item["density"] = nullptr;
    list.push_back(std::move(item));
  }
  return list;
}

void print_table(const std::vector<Row>& rows, bool all) {
  Table table(
      {"tensor", "shape", "dtype", "storage", "density", "blocks 16x32", "size", "of dense"});
  double bytes = 0;
  double dense = 0;
  double elements = 0;
  std::size_t hidden = 0;
  for (const Row& row : rows) {
    bytes += static_cast<double>(row.tensor.bytes);
    dense += static_cast<double>(row.tensor.dense_bytes);
    elements += static_cast<double>(row.elements());
    if (row.tensor.shape.size() < 2 && !all) {
      ++hidden;
      continue;
    }
    table.add({row.tensor.name, to_string(row.tensor.shape), to_string(row.tensor.dtype),
               to_string(row.tensor.storage), row.nnz < 0 ? "-" : percent(row.density()),
               row.nnz < 0 ? "-" : percent(row.least, 0) + " – " + percent(row.most, 0),
               human_bytes(static_cast<double>(row.tensor.bytes)),
               row.tensor.dense_bytes == 0 ? "-"
                                           : percent(static_cast<double>(row.tensor.bytes) /
                                                     static_cast<double>(row.tensor.dense_bytes))});
  }
  std::fputs(table.text().c_str(), stdout);
  if (hidden > 0) std::printf("(and %zu vectors: --all lists them)\n", hidden);
  std::printf("%s parameters, %s stored, %s dense\n", human_count(elements).c_str(),
              human_bytes(bytes).c_str(), human_bytes(dense).c_str());
}

void run(const Flags& flags, const Session& session) {
  require_path(flags.model, "-m");
  const auto checkpoint = Checkpoint::open(flags.model);
  if (!flags.svg.empty()) std::filesystem::create_directories(flags.svg);
  std::vector<Row> rows;
  const auto total = static_cast<std::int64_t>(checkpoint->tensors().size());
  for (const CheckpointTensor& tensor : checkpoint->tensors()) {
    session.progress().update("inspect", static_cast<std::int64_t>(rows.size()), total,
                              tensor.name);
    rows.push_back(look_at(*checkpoint, tensor, flags.svg));
  }
  session.progress().update("inspect", total, total, "");
  if (session.json) return print_json(as_json(rows));
  print_table(rows, flags.all);
  if (!flags.svg.empty()) std::printf("density maps: %s\n", flags.svg.c_str());
}

}  // namespace

void add_inspect(CLI::App& app, Session& session) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand(
      "inspect", "List the tensors of a checkpoint, their density and how uneven it is");
  verb->fallthrough();
  verb->add_option("-m,--model", flags->model, "Model folder or .safetensors file")
      ->required()
      ->type_name("DIR");
  verb->add_option("--svg", flags->svg, "Write a density map of every weight into this folder")
      ->type_name("DIR");
  verb->add_flag("--all", flags->all, "List vectors too");
  verb->footer("Example:\n  rarefy inspect -m my-model-thin --svg maps");
  verb->callback([flags, &session] { run(*flags, session); });
}

}  // namespace rarefy::cli
