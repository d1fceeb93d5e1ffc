#include <string_view>

#include "reprise/graph/report.h"

namespace rp {

// graph/page/, made one source by the build.
extern const char page_html[], page_style[], page_graph_script[], page_tables_script[];

namespace {

constexpr size_t data_budget = 850'000;  // with all else the page stays below a megabyte

std::string escaped(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

// Within a script element nothing may look like its end; in JSON `<` stands in texts only.
std::string script_safe(const std::string& json) {
  std::string out;
  for (char c : json) c == '<' ? out += "\\u003c" : out += c;
  return out;
}

}  // namespace

std::string to_html(const CaptureFacts& facts) {
  const std::pair<std::string_view, std::string> parts[] = {
      {"{{title}}", "Capture " + escaped(facts.name)},
      {"{{style}}", page_style},
      {"{{data}}", script_safe(page_data(facts, data_budget))},
      {"{{script}}", std::string(page_graph_script) + page_tables_script},
  };
  std::string out;
  for (std::string_view rest = page_html; !rest.empty();) {
    const size_t at = rest.find("{{");
    out += rest.substr(0, at);
    if (at == std::string_view::npos) break;
    rest.remove_prefix(at);
    for (const auto& [mark, text] : parts)
      if (rest.starts_with(mark)) {
        out += text;
        rest.remove_prefix(mark.size());
        break;
      }
  }
  return out;
}

}  // namespace rp
