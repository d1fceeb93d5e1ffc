#pragma once
// Spans of time for chrome://tracing and ui.perfetto.dev: with REPRISE_TRACE=file.json, one process writes what its
// threads do to that file, as complete events of the Trace Event Format. See docs/reports.md.
#include <fmt/format.h>

#include <optional>
#include <string>
#include <string_view>

#include "reprise/core/engine.h"

namespace rp {

/// Whether this thread's spans are written.
inline bool traced() { return thread_state.watch && (watched() & watch_trace); }

/// Nanoseconds for a span that begins now, never 0; 0 if spans are not written.
int64_t begin_span();

/// `text` with quotes, as JSON wants it.
std::string json_text(std::string_view text);

/// "line" and, if there is one, "module", as members of a JSON object.
std::string where_members(const Where& where);

/// Writes a span of this thread that began at `begun` and ends now; nothing if `begun` is 0. `members`: those of the
/// JSON object that the viewers show with the span.
void end_span(int64_t begun, std::string_view category, std::string_view name, std::string_view members);

/// A span from construction to destruction. `category` must outlive it.
class Span {
 public:
  Span(std::string_view category, std::string name, std::string members)
      : category_(category), name_(std::move(name)), members_(std::move(members)), begun_(begin_span()) {}
  ~Span() { end_span(begun_, category_, name_, members_); }
  Span(const Span&) = delete;

 private:
  std::string_view category_;
  std::string name_, members_;
  int64_t begun_;
};

/// A span at the line and module being served, if spans are written. The name is formatted.
template <class... T>
std::optional<Span> span(std::string_view category, fmt::format_string<T...> name, T&&... args) {
  if (!traced()) [[likely]]
    return std::nullopt;
  return std::optional<Span>(std::in_place, category, fmt::format(name, std::forward<T>(args)...),
                             where_members(At::where()));
}

}  // namespace rp
