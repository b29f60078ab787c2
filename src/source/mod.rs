//! Text to a located tree: YAML events, spans, tags, `${…}`, `.env`, diagnostics.
//!
//! Knows YAML and the grammars of interpolation and env files; knows nothing of Compose.
//! Broken user files are data here: functions return what could be read beside the diagnostics.
//! The only way to the outside is the [`Files`] trait, so that every loader above is a pure
//! function of its inputs.

pub mod diagnostic;
pub mod dotenv;
pub mod files;
mod history;
pub mod interpolate;
mod lenient;
pub mod node;
pub mod parse;
pub mod scalar;
mod text;

pub use diagnostic::{Diagnostic, Label, Severity, render, render_json};
pub use files::Files;
pub use history::{History, Origin, Step};
pub use node::{Map, Node, Tag, Trail, TreePath, Value};
pub use text::{FileId, SourceFile, SourceMap, Span};
