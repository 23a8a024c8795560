// rarefy convert: the same model in another storage, and sparse matrices between text formats.
#include <cstdio>

#include "base/check.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "rarefy/checkpoint.h"
#include "rarefy/sparse_files.h"

namespace rarefy::cli {
namespace {

struct Flags {
  std::string model, out, storage = "sparse-bitmask";
  bool overwrite = false;
};

bool is_matrix_file(const std::string& path) {
  const std::string ending = std::filesystem::path(path).extension().string();
  return ending == ".smtx" || ending == ".mtx";
}

void convert_matrix(const Flags& flags, const Session& session) {
  const SparseText matrix = read_sparse_text(flags.model);
  require(flags.overwrite || !std::filesystem::exists(flags.out),
          "-o: {} exists; --overwrite replaces it", flags.out);
  write_sparse_text(flags.out, matrix);
  if (session.json) {
    print_json({{"out", flags.out},
                {"rows", matrix.rows},
                {"cols", matrix.cols},
                {"nnz", matrix.col_indices.size()}});
  } else {
    std::printf("%s: %lldx%lld, %zu nonzeros\n", flags.out.c_str(),
                static_cast<long long>(matrix.rows), static_cast<long long>(matrix.cols),
                matrix.col_indices.size());
  }
}

void convert_model(const Flags& flags, const Session& session) {
  const auto checkpoint = Checkpoint::open(flags.model);
  CheckpointWriter writer(flags.out, *checkpoint, {.overwrite = flags.overwrite});
  const auto total = static_cast<std::int64_t>(checkpoint->tensors().size());
  std::int64_t done = 0;
  for (const CheckpointTensor& tensor : checkpoint->tensors()) {
    session.progress().update("convert", done++, total, tensor.name);
    const bool matrix = tensor.shape.size() == 2 && is_compute_dtype(tensor.dtype);
    if (!matrix) {
      writer.copy(tensor.name);
    } else if (flags.storage == "dense") {
      writer.add(tensor.name, *checkpoint->source(tensor.name), Storage::kDense);
    } else {
      // Below 1/16 (16-bit) or 1/32 (32-bit) zeros the bitmask costs more than it saves.
      const auto source = checkpoint->source(tensor.name);
      const PatternStats stats = pattern_stats(*source);
      const bool smaller = 1.0 - stats.density() > 1.0 / static_cast<double>(bits_of(tensor.dtype));
      writer.add(tensor.name, *source, smaller ? Storage::kSparseBitmask : Storage::kDense);
    }
    checkpoint->drop_pages(tensor.name);
  }
  writer.finish();
  session.progress().update("convert", total, total, "");
  double bytes = 0;
  double dense = 0;
  const auto written = Checkpoint::open(flags.out);
  for (const CheckpointTensor& tensor : written->tensors()) {
    bytes += static_cast<double>(tensor.bytes);
    dense += static_cast<double>(tensor.dense_bytes);
  }
  if (session.json)
    return print_json({{"out", flags.out}, {"bytes", bytes}, {"dense_bytes", dense}});
  std::printf("%s: %s, dense %s\n", flags.out.c_str(), human_bytes(bytes).c_str(),
              human_bytes(dense).c_str());
}

void run(const Flags& flags, const Session& session) {
  require_path(flags.model, "-m");
  if (is_matrix_file(flags.model)) return convert_matrix(flags, session);
  convert_model(flags, session);
}

}  // namespace

void add_convert(CLI::App& app, Session& session) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand(
      "convert", "Store a model dense or as sparse-bitmask; .smtx and .mtx into each other");
  verb->fallthrough();
  verb->add_option("-m,--model", flags->model, "Model folder, or a .smtx/.mtx file")
      ->required()
      ->type_name("DIR|FILE");
  verb->add_option("-o,--out", flags->out, "Where the result goes")
      ->required()
      ->type_name("DIR|FILE");
  verb->add_option("--storage", flags->storage, "Storage of matrices that have zeros")
      ->check(CLI::IsMember({"sparse-bitmask", "dense"}))
      ->capture_default_str();
  verb->add_flag("--overwrite", flags->overwrite, "Replace what is there already");
  verb->footer("Example:\n  rarefy convert -m my-model-thin -o my-model-dense --storage dense");
  verb->callback([flags, &session] { run(*flags, session); });
}

}  // namespace rarefy::cli
