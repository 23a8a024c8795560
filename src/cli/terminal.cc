#include "cli/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <utility>

namespace rarefy::cli {
namespace {

std::string padded(const std::string& text, std::size_t width, bool right) {
  const std::size_t fill = width - std::min(width, columns_of(text));
  return right ? std::string(fill, ' ') + text : text + std::string(fill, ' ');
}

std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

std::string scaled(double value, double base, const std::array<const char*, 5>& units) {
  std::size_t unit = 0;
  while (value >= base && unit + 1 < units.size()) {
    value /= base;
    ++unit;
  }
  const int digits = unit == 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return fmt::format("{:.{}f}{}", value, digits, units[unit]);
}

int terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

bool stderr_is_terminal() {
  return isatty(STDERR_FILENO) == 1;
}
bool stdout_is_terminal() {
  return isatty(STDOUT_FILENO) == 1;
}

std::size_t columns_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  }));
}

std::string human_bytes(double bytes) {
  return scaled(bytes, 1024, {" B", " KiB", " MiB", " GiB", " TiB"});
}
std::string human_count(double count) {
  return scaled(count, 1000, {"", " K", " M", " B", " T"});
}
std::string human_time_us(double us) {
  return scaled(us, 1000, {" us", " ms", " s", " ks", " Ms"});
}
std::string percent(double share, int digits) {
  return fmt::format("{:.{}f} %", 100 * share, digits);
}

Table::Table(std::vector<std::string> header) : header_(std::move(header)) {}

void Table::add(std::vector<std::string> row) {
  row.resize(header_.size());
  rows_.push_back(std::move(row));
}

std::vector<std::size_t> Table::widths() const {
  std::vector<std::size_t> result(header_.size());
  for (std::size_t c = 0; c < header_.size(); ++c) {
    result[c] = columns_of(header_[c]);
    for (const auto& row : rows_) result[c] = std::max(result[c], columns_of(row[c]));
  }
  return result;
}

std::vector<bool> Table::numeric() const {
  std::vector<bool> result(header_.size(), !rows_.empty());
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string& cell = row[c];
      const bool number = cell.empty() || cell == "-" ||
                          std::isdigit(static_cast<unsigned char>(cell[0])) != 0 ||
                          (cell.size() > 1 && cell[0] == '-' &&
                           std::isdigit(static_cast<unsigned char>(cell[1])) != 0);
      if (!number) result[c] = false;
    }
  }
  return result;
}

std::string Table::text() const {
  const std::vector<std::size_t> width = widths();
  const std::vector<bool> right = numeric();
  std::string out;
  const auto line = [&](const std::vector<std::string>& row) {
    std::string text;
    for (std::size_t c = 0; c < row.size(); ++c)
      text += (c == 0 ? "" : "  ") + padded(row[c], width[c], right[c]);
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + '\n';
  };
  line(header_);
  std::vector<std::string> rule;
  for (std::size_t w : width) {
    std::string dashes;
    for (std::size_t i = 0; i < w; ++i) dashes += "─";
    rule.push_back(dashes);
  }
  line(rule);
  for (const auto& row : rows_) line(row);
  return out;
}

std::string Table::markdown() const {
  const std::vector<std::size_t> width = widths();
  const std::vector<bool> right = numeric();
  std::string out = "|";
  for (std::size_t c = 0; c < header_.size(); ++c)
    out += " " + padded(header_[c], width[c], right[c]) + " |";
  out += "\n|";
  for (std::size_t c = 0; c < header_.size(); ++c) {
    out += right[c] ? " " + std::string(width[c], '-') + ":|"
                    : " " + std::string(width[c], '-') + " |";
  }
  out += '\n';
  for (const auto& row : rows_) {
    out += '|';
    for (std::size_t c = 0; c < row.size(); ++c)
      out += " " + padded(row[c], width[c], right[c]) + " |";
    out += '\n';
  }
  return out;
}

std::string Table::csv() const {
  std::string out;
  const auto line = [&](const std::vector<std::string>& row) {
    for (std::size_t c = 0; c < row.size(); ++c) out += (c == 0 ? "" : ",") + csv_cell(row[c]);
    out += '\n';
  };
  line(header_);
  for (const auto& row : rows_) line(row);
  return out;
}

TerminalProgress::~TerminalProgress() {
  clear();
}

void TerminalProgress::clear() {
  if (!visible_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  visible_ = false;
}

void TerminalProgress::update(std::string_view what, std::int64_t done, std::int64_t total,
                              std::string_view detail) {
  const auto now = std::chrono::steady_clock::now();
  if (what != what_) {
    what_ = what;
    started_ = now;
    drawn_ = {};
  }
  if (done >= total) return clear();
  if (now - drawn_ < std::chrono::milliseconds(100)) return;
  drawn_ = now;

  constexpr int kBar = 24;
  const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0;
  const int filled = static_cast<int>(share * kBar);
  std::string bar;
  for (int i = 0; i < kBar; ++i) bar += i < filled ? "█" : "░";
  const double elapsed = std::chrono::duration<double>(now - started_).count();
  const std::string left =
      done > 0 && elapsed > 2 ? fmt::format(" {:.0f} s left", elapsed / share - elapsed) : "";
  std::string line = fmt::format("{} {} {}/{}{}  {}", what, bar, done, total, left, detail);
  while (columns_of(line) >= static_cast<std::size_t>(terminal_width())) line.pop_back();
  std::fprintf(stderr, "\r%s\x1b[K", line.c_str());
  std::fflush(stderr);
  visible_ = true;
}

TerminalProgress& terminal_progress() {
  static TerminalProgress progress;
  return progress;
}

}  // namespace rarefy::cli
