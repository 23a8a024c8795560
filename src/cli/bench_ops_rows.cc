#include "cli/bench_ops_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <map>

#include "base/check.h"
#include "base/files.h"
#include "rarefy/cpu.h"

namespace rarefy::bench {
namespace {

/// To `digits` decimals; dividing gives the double nearest to the decimal, multiplying by 0.1 would
/// not.
double rounded(double value, int digits) {
  const double scale = std::pow(10.0, digits);
  return std::round(value * scale) / scale;
}

using CsvRow = std::map<std::string, std::string>;

/// No cell of ours holds a comma, a quote or a line break; files by others that do are refused.
std::vector<std::string> split(std::string_view line, const std::string& where) {
  if (line.find('"') != std::string_view::npos)
    fail(ErrorKind::kCorrupt, "{}: expected plain cells, got a quote", where);
  std::vector<std::string> cells;
  for (;;) {
    const std::size_t comma = line.find(',');
    cells.emplace_back(line.substr(0, comma));
    if (comma == std::string_view::npos) return cells;
    line.remove_prefix(comma + 1);
  }
}

std::vector<CsvRow> read_csv(const std::filesystem::path& file) {
  std::vector<CsvRow> rows;
  if (!std::filesystem::exists(file)) return rows;
  const std::string text = read_text(file);
  std::vector<std::string> header;
  std::size_t number = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view(text).substr(at, end - at);
    at = end + 1;
    const std::string where = fmt::format("{}:{}", file.string(), ++number);
    if (line.empty()) continue;
    std::vector<std::string> cells = split(line, where);
    if (header.empty()) {
      header = std::move(cells);
      continue;
    }
    if (cells.size() != header.size()) {
      fail(ErrorKind::kCorrupt, "{}: expected {} cells, got {}", where, header.size(),
           cells.size());
    }
    CsvRow row;
    for (std::size_t i = 0; i < cells.size(); ++i) row[header[i]] = cells[i];
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string cell(const cli::OrderedJson& value) {
  std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  std::replace(text.begin(), text.end(), ',', ';');
  return text;
}

CsvRow cells_of(const cli::OrderedJson& row) {
  CsvRow cells;
  for (const auto& [name, value] : row.items()) cells[name] = cell(value);
  return cells;
}

/// Whether a row of a file is of the same measurement: a cell that it lacks or leaves empty, from
/// before there was such a column, is like any.
bool same(const CsvRow& old, const CsvRow& row, std::span<const char* const> columns) {
  return std::all_of(columns.begin(), columns.end(), [&](const char* column) {
    const auto found = old.find(column);
    return found == old.end() || found->second.empty() || found->second == row.at(column);
  });
}

}  // namespace

cli::OrderedJson row_to_json(const Row& row, const Context& context) {
  return {{"method", row.method},
          {"format", row.format},
          {"median_us", rounded(row.median_us, 2)},
          {"min_us", rounded(row.min_us, 2)},
          {"max_us", rounded(row.max_us, 2)},
          {"bytes", row.bytes},
          {"gb_per_s", rounded(row.gb_per_s, 2)},
          {"speedup_vs_best_dense", rounded(row.speedup_vs_best_dense, 3)},
          {"max_rel_err", row.max_rel_err},
          {"chosen", row.chosen},
          {"roofline", rounded(row.roofline, 3)},
          {"shape", context.shape},
          {"n", context.n},
          {"sparsity", rounded(context.sparsity, 4)},
          {"dtype", context.dtype},
          {"activations", context.activations},
          {"pattern", context.pattern},
          {"threads", context.threads},
          {"layout", context.layout},
          {"estimate_us", rounded(row.estimate_us, 2)},
          {"date", context.date},
          {"commit", context.commit}};
}

void save_rows(const std::filesystem::path& file, const cli::OrderedJson& rows,
               std::span<const char* const> key) {
  if (rows.empty()) return;
  std::vector<std::string> header;
  for (const auto& [name, value] : rows[0].items()) header.push_back(name);
  std::vector<CsvRow> added;
  for (const cli::OrderedJson& row : rows) added.push_back(cells_of(row));
  std::vector<CsvRow> all = read_csv(file);
  std::erase_if(all, [&](const CsvRow& old) {
    return std::any_of(added.begin(), added.end(),
                       [&](const CsvRow& row) { return same(old, row, key); });
  });
  for (const CsvRow& row : added) {
    const auto chosen = row.find("chosen");
    if (chosen == row.end() || chosen->second != "true") continue;
    for (CsvRow& old : all) {
      if (same(old, row, kOpsProblem)) old["chosen"] = "false";
    }
  }
  all.insert(all.end(), added.begin(), added.end());

  std::string text = fmt::format("{}\n", fmt::join(header, ","));
  for (CsvRow& row : all) {
    std::vector<std::string> cells;
    cells.reserve(header.size());
    for (const std::string& column : header) cells.push_back(row[column]);
    text += fmt::format("{}\n", fmt::join(cells, ","));
  }
  if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path());
  AtomicFile out(file);
  out.write(text);
  out.commit();
}

SavedProblems::SavedProblems(const std::filesystem::path& file) : rows_(read_csv(file)) {}

bool SavedProblems::has(const Context& context) const {
  const CsvRow asked = cells_of(row_to_json({}, context));
  return std::any_of(rows_.begin(), rows_.end(), [&](const CsvRow& row) {
    const auto commit = row.find("commit");
    return commit != row.end() && commit->second == context.commit && same(row, asked, kOpsProblem);
  });
}

std::string folder_name(std::string gpu) {
  for (char& c : gpu)
    c = c == ' ' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return gpu;
}

std::string device_name() {
  std::string name;
  for (char c : cpu_info().brand) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (!name.empty() && name.back() != '-') {
      name += '-';
    }
  }
  while (!name.empty() && name.back() == '-') name.pop_back();
  return fmt::format("{}-{}c", name.empty() ? "cpu" : name, cpu_info().cores);
}

}  // namespace rarefy::bench
