// The page that `rarefy report` writes: what is known of each model, and the sections made of it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/charts.h"
#include "cli/verb.h"
#include "rarefy/generate.h"

namespace rarefy::cli {

/// What the page says of one model.
struct ModelFacts {
  std::string name, directory;
  double parameters = 0, file_bytes = 0, weight_bytes = 0, dense_bytes = 0, density = 1;
  Perplexity perplexity;
  Generation generation;
  std::string plans;                   ///< As a preformatted table.
  std::map<std::string, int> formats;  ///< Weights a format.
};

/// What the page is about, gathered.
struct ReportFacts {
  std::vector<ModelFacts> models;            ///< The dense one first.
  OrderedJson ops = OrderedJson::array();    ///< Rows of `bench ops --json`.
  OrderedJson bench = OrderedJson::array();  ///< Rows of `bench --json`.
  MachineCeilings ceilings;
  std::optional<BlockCalibration> calibration, device_calibration;  ///< The CPU's, the GPU's.
  std::string text_name;  ///< File that perplexity was measured on; empty: not measured.
  std::string prompt;     ///< Empty: nothing was generated.
  int maps = 8;
};

/// Speed of the chosen kernel over the best dense one against sparsity, a line for each shape,
/// N, dtype and pattern.
Chart speed_chart(const OrderedJson& ops);
/// Time against bytes read, under the line that memory draws.
Chart roofline_chart(const OrderedJson& ops, const MachineCeilings& ceilings);
/// What blocks cost on either kind of unit against their density, for each N of `dtype`: the fitted
/// curves and what was measured.
Chart calibration_chart(const BlockCalibration& calibration, DType dtype);
/// Perplexity against bytes in memory.
Chart quality_chart(const std::vector<ModelFacts>& models);

/// A table of text, for the terminal and the page.
struct TextTable {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
};
TextTable models_table(const ReportFacts& facts);
/// Of `bench ops` the chosen kernel of each problem only.
TextTable chosen_table(const OrderedJson& ops);
TextTable bench_table(const OrderedJson& bench);

/// The whole page: HTML with inline SVG, no scripts, nothing fetched.
std::string report_page(const ReportFacts& facts);

}  // namespace rarefy::cli
