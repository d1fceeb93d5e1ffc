#pragma once
// Printers of what a captured function knows about itself: one description, several forms.
#include <string>

#include "reprise/graph/facts.h"

namespace rp {

std::string to_text(const CaptureFacts& facts);
std::string to_json(const CaptureFacts& facts);
/// For Graphviz.
std::string to_dot(const CaptureFacts& facts);
/// A page that needs nothing but itself.
std::string to_html(const CaptureFacts& facts);

/// What the page's script reads: as little JSON as tells all. Graphs beyond `budget` bytes are told without nodes.
std::string page_data(const CaptureFacts& facts, size_t budget);

/// "12.3 KB", "1.20 MFLOP", "45.6 us".
std::string bytes_text(double bytes);
std::string flops_text(double flops);
std::string time_text(double ns);

}  // namespace rp
