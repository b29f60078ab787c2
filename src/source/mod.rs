//! Text to a located tree: YAML events, spans, tags, `${…}`, `.env`, diagnostics.
//!
//! Knows YAML and the grammars of interpolation and env files; knows nothing of Compose.
//! Broken user files are data here: functions return what could be read beside the diagnostics.
