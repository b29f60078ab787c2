//! YAML events to [`Node`] trees.
//!
//! Aliases are copied, so a node budget bounds what a small text can expand to; depth is bounded
//! because every later phase recurses over the tree.

use std::borrow::Cow;

use foldhash::fast::RandomState;
use indexmap::map::Entry;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

use super::{
    Diagnostic, FileId, Map, Node, SourceMap, Span, Step, Tag, Trail, Value, lenient,
    node::text_weight, scalar,
};

/// Most nodes that the anchors and aliases of one document may copy (Y4); long texts count as
/// several.
pub const MAX_ALIASED: usize = 750_000;
/// Most nodes of one document, written out or copied. A file that holds more is no project.
pub const MAX_NODES: usize = 1_000_000;
/// Deepest nesting of collections.
pub const MAX_DEPTH: usize = 128;

/// Reads every document of a file. Documents before a syntax error are returned too; an empty
/// document is a null node.
pub fn parse(sources: &SourceMap, file: FileId, diagnostics: &mut Vec<Diagnostic>) -> Vec<Node> {
    let text = sources.shared_text(file);
    let first = read(sources, file, (&text, &text));
    let Some(refused_at) = first.refused_at else {
        diagnostics.extend(first.diagnostics);
        return first.documents;
    };
    // The strict reading failed; what Docker Compose would read may still be told from it.
    let mut chosen = first;
    if let Cow::Owned(relaxed) = lenient::relax(&text) {
        let second = read(sources, file, (&text, &relaxed));
        // A bracket that is never closed swallows the rest of the file: where the strict reading
        // stopped is nearer to it than the end.
        let is_end = |at: u32| at as usize >= text.trim_end().len();
        let is_about_tabs = line_at(&text, refused_at as usize).contains('\t');
        let tells_more = |at| at > refused_at && (!is_end(at) || is_about_tabs);
        if second.refused_at.is_none_or(tells_more) {
            chosen = second;
        }
    }
    diagnostics.extend(chosen.diagnostics);
    chosen.documents
}

fn line_at(text: &str, at: usize) -> &str {
    let begin = text[..at].rfind('\n').map_or(0, |end| end + 1);
    text[begin..].split('\n').next().unwrap_or_default()
}

/// What one reading of a file came to.
struct Reading {
    documents: Vec<Node>,
    diagnostics: Vec<Diagnostic>,
    /// Where the parser could not go on.
    refused_at: Option<u32>,
}

/// Reads a text as its author wrote it by a form of it that has every character in its place.
fn read(sources: &SourceMap, file: FileId, (written, text): (&str, &str)) -> Reading {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        offsets: Offsets::new(written),
        sources,
        written,
        relaxed: (text != written).then_some(text),
        file,
        diagnostics: Vec::new(),
        refused_at: None,
        has_tabs: written.contains('\t'),
        anchors: Vec::new(),
        n_nodes: 0,
        n_aliased: 0,
        items: Vec::new(),
        entries: Vec::new(),
    };
    let mut documents = Vec::new();
    loop {
        match builder.next() {
            Ok((Event::StreamEnd, _)) | Err(Stop::Ended) => break,
            Ok((Event::DocumentStart(_), _)) => {
                builder.n_nodes = 0;
                builder.n_aliased = 0;
                builder.anchors.clear();
                match builder
                    .next()
                    .and_then(|(event, span)| builder.node(event, span, 0, &Trail::Root))
                {
                    Ok(node) => documents.push(node),
                    Err(stop) => {
                        builder.report(stop);
                        break;
                    }
                }
            }
            Ok(_) => {}
            Err(stop) => {
                builder.report(stop);
                break;
            }
        }
    }
    Reading {
        documents,
        diagnostics: builder.diagnostics,
        refused_at: builder.refused_at,
    }
}

/// Why reading ends early.
enum Stop {
    Ended,
    Syntax(ScanError),
    Refused(Diagnostic),
}

/// Character indices, which the parser counts, to byte offsets.
enum Offsets {
    Ascii,
    Table(Vec<u32>),
}

impl Offsets {
    fn new(text: &str) -> Self {
        if text.is_ascii() {
            Offsets::Ascii
        } else {
            Offsets::Table(text.char_indices().map(|(at, _)| at as u32).collect())
        }
    }

    fn byte(&self, index: usize, end: usize) -> u32 {
        match self {
            Offsets::Ascii => index.min(end) as u32,
            Offsets::Table(table) => table.get(index).copied().unwrap_or(end as u32),
        }
    }
}

struct Builder<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    offsets: Offsets,
    sources: &'t SourceMap,
    /// The file's text.
    written: &'t str,
    /// What the parser reads in its place, if it is another text.
    relaxed: Option<&'t str>,
    file: FileId,
    diagnostics: Vec<Diagnostic>,
    refused_at: Option<u32>,
    has_tabs: bool,
    /// By anchor number: `None` while the anchored node is still being read.
    anchors: Vec<Option<(Node, usize)>>,
    n_nodes: usize,
    n_aliased: usize,
    /// What was read of the lists and mappings that are still open. A collection is made when its
    /// length is known: growing them is a good part of the work otherwise.
    items: Vec<Node>,
    entries: Vec<(String, Node)>,
}

impl<'t> Builder<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Stop> {
        match self.parser.next_event() {
            None => Err(Stop::Ended),
            Some(Err(error)) => Err(Stop::Syntax(error)),
            Some(Ok((event, span))) => Ok((event, self.span(span.start, span.end))),
        }
    }

    fn span(&self, start: Marker, end: Marker) -> Span {
        let start = self.offsets.byte(start.index(), self.written.len());
        let mut end = self.offsets.byte(end.index(), self.written.len());
        if self.relaxed.is_some()
            && let Some(text) = self.written.get(start as usize..end as usize)
        {
            // Line breaks became blanks, which the parser counts to what is before them.
            end = start + text.trim_end().len() as u32;
        }
        Span {
            file: self.file,
            start,
            end,
        }
    }

    fn report(&mut self, stop: Stop) {
        match stop {
            Stop::Ended => {}
            Stop::Refused(diagnostic) => self.diagnostics.push(diagnostic),
            Stop::Syntax(error) => {
                let at = self.span(*error.marker(), *error.marker());
                self.refuse(at, error.info());
            }
        }
    }

    /// The parser lets a tab stand before the first key of a document.
    fn check_indentation(&self, at: Span) -> Result<(), Stop> {
        if !self.has_tabs {
            return Ok(());
        }
        let (before, rest) = self.written.split_at(at.start as usize);
        let line = &before[before.rfind('\n').map_or(0, |end| end + 1)..];
        let is_block = !rest.starts_with(['[', '{']);
        if is_block && line.contains('\t') && line.trim().is_empty() {
            let number = self.sources.place(at).line;
            let message = format!("yaml: line {number}: a tab cannot indent a block");
            let diagnostic = Diagnostic::error("yaml-syntax", message).at(at);
            return Err(Stop::Refused(
                diagnostic.help("indent with spaces; YAML knows no tabs there"),
            ));
        }
        Ok(())
    }

    fn refuse(&mut self, at: Span, info: &str) {
        self.refused_at.get_or_insert(at.start);
        let at = match info.contains("tab") {
            true => self.next_indenting_tab(at).unwrap_or(at),
            false => at,
        };
        let line = self.sources.place(at).line;
        let diagnostic =
            Diagnostic::error("yaml-syntax", format!("yaml: line {line}: {info}")).at(at);
        let mut indentation = self.sources.line(at).chars();
        let is_indented_by_tab = indentation
            .by_ref()
            .take_while(|c| c.is_whitespace())
            .any(|c| c == '\t');
        self.diagnostics.push(match is_indented_by_tab {
            true => diagnostic.help("indent with spaces; YAML knows no tabs there"),
            false => diagnostic,
        });
    }

    /// The parser names the scalar that it was reading; the tab may stand on a later line.
    fn next_indenting_tab(&self, from: Span) -> Option<Span> {
        let mut at = self.written[..from.start as usize]
            .rfind('\n')
            .map_or(0, |end| end + 1);
        for line in self.written[at..].split_inclusive('\n') {
            let blank = line.len() - line.trim_start_matches([' ', '\t']).len();
            if let Some(tab) = line[..blank].find('\t') {
                let start = (at + tab) as u32;
                return Some(Span {
                    start,
                    end: start + 1,
                    ..from
                });
            }
            at += line.len();
        }
        None
    }

    /// A scalar whose lines were put together for the parser, read as it is written.
    fn reread(
        &mut self,
        text: Cow<'t, str>,
        style: ScalarStyle,
        span: Span,
    ) -> Result<Cow<'t, str>, Stop> {
        if self.relaxed.is_none() {
            return Ok(text);
        }
        let range = span.start as usize..span.end as usize;
        let written = self.written.get(range).unwrap_or_default();
        if !written.contains('\n') {
            return Ok(text);
        }
        let is_joined = match style {
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => true,
            // Between brackets; elsewhere its lines were folded, which makes it shorter.
            ScalarStyle::Plain => text.chars().count() == written.chars().count(),
            _ => false,
        };
        if !is_joined {
            return Ok(text);
        }
        // In brackets no indentation is asked for.
        let alone = format!("[{written}]");
        let mut parser = Parser::new_from_str(&alone);
        loop {
            match parser.next_event() {
                Some(Ok((Event::Scalar(text, ..), _))) => return Ok(Cow::Owned(text.into_owned())),
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    self.refuse(span, error.info());
                    return Err(Stop::Ended);
                }
                None => return Err(Stop::Ended),
            }
        }
    }

    fn spend(&mut self, n: usize, at: Span) -> Result<(), Stop> {
        self.n_nodes += n;
        let message = if self.n_aliased > MAX_ALIASED {
            format!("aliases expand to more than {MAX_ALIASED} values")
        } else if self.n_nodes > MAX_NODES {
            format!("document has more than {MAX_NODES} values")
        } else {
            return Ok(());
        };
        Err(Stop::Refused(
            Diagnostic::error("too-many-nodes", message)
                .at(at)
                .help("aliases of aliases multiply; write the values out or split the file"),
        ))
    }

    fn open_anchor(&mut self, anchor: usize) {
        if anchor > 0 {
            if self.anchors.len() <= anchor {
                self.anchors.resize(anchor + 1, None);
            }
            self.anchors[anchor] = None;
        }
    }

    fn node(
        &mut self,
        event: Event<'t>,
        span: Span,
        depth: usize,
        path: &Trail<'_>,
    ) -> Result<Node, Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Refused(
                Diagnostic::error(
                    "too-deep",
                    format!("values are nested more than {MAX_DEPTH} levels deep"),
                )
                .at(span),
            ));
        }
        let weight = match &event {
            Event::Scalar(text, ..) => text_weight(text),
            // What it copies is what counts.
            Event::Alias(_) => 0,
            _ => 1,
        };
        let before = self.n_nodes;
        self.spend(weight, span)?;
        let (anchor, node) = match event {
            Event::Alias(id) => match self.anchors.get(id) {
                Some(Some((_, size))) => {
                    // Counted before it is copied: the copy is what must not be made.
                    let size = *size;
                    self.n_aliased += size;
                    self.spend(size, span)?;
                    if let Some(Some((node, _))) = self.anchors.get(id) {
                        let mut node = node.clone();
                        node.history.push(Step::Alias { at: span });
                        return Ok(node);
                    }
                    return Err(Stop::Ended);
                }
                _ => {
                    return Err(Stop::Refused(
                        Diagnostic::error(
                            "alias-cycle",
                            format!(
                                "cycle detected: the alias at {path} stands inside its own anchor"
                            ),
                        )
                        .at(span),
                    ));
                }
            },
            Event::Scalar(text, style, anchor, tag) => {
                let text = self.reread(text, style, span)?;
                let (merge_tag, core) = tags(tag.as_deref());
                let value = match (core, style) {
                    (Some("str"), _) => Value::Text(text.into_owned()),
                    (Some(_), _) | (None, ScalarStyle::Plain) => scalar::resolve(text),
                    (None, _) => Value::Text(text.into_owned()),
                };
                let mut node = Node::new(span, value);
                node.tag = merge_tag;
                (anchor, node)
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_indentation(span)?;
                self.open_anchor(anchor);
                let first = self.items.len();
                let mut whole = span;
                loop {
                    let (event, at) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        whole.end = at.end.max(whole.end);
                        break;
                    }
                    let index = self.items.len() - first;
                    let item = self.node(event, at, depth + 1, &path.index(index))?;
                    self.items.push(item);
                }
                let items = self.items.drain(first..).collect();
                let mut node = Node::new(whole, Value::List(items));
                node.tag = tags(tag.as_deref()).0;
                (anchor, node)
            }
            Event::MappingStart(anchor, tag) => {
                self.check_indentation(span)?;
                self.open_anchor(anchor);
                let mut node = self.mapping(span, depth, path)?;
                node.tag = tags(tag.as_deref()).0;
                (anchor, node)
            }
            _ => return Err(Stop::Ended),
        };
        if anchor > 0 {
            self.open_anchor(anchor);
            // What is kept for aliases is a copy, too: anchors may stand around each other.
            let size = self.n_nodes - before;
            self.n_aliased += size;
            self.spend(0, span)?;
            self.anchors[anchor] = Some((node.clone(), size));
        }
        Ok(node)
    }

    fn mapping(&mut self, span: Span, depth: usize, path: &Trail<'_>) -> Result<Node, Stop> {
        let start = self.entries.len();
        let mut merges: Vec<(Node, Span)> = Vec::new();
        let mut merge_key: Option<Span> = None;
        let mut whole = span;
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                whole.end = at.end.max(whole.end);
                break;
            }
            let is_merge =
                matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.node(event, at, depth + 1, &path.key("?"))?;
            let (event, value_at) = self.next()?;
            let below = path.key(key.as_str().unwrap_or("?"));
            let mut value = self.node(event, value_at, depth + 1, &below)?;
            let Value::Text(name) = key.value else {
                self.refuse_key(&key, at, path);
                continue;
            };
            if is_merge {
                if let Some(first) = merge_key {
                    self.duplicate(&name, at, first, "write one `<<: [*a, *b]` instead");
                    continue;
                }
                merge_key = Some(at);
                self.collect_merge(value, value_at, &mut merges);
                continue;
            }
            value.key = Some(at);
            self.entries.push((name, value));
        }
        let n_merged: usize = merges
            .iter()
            .filter_map(|(merge, _)| merge.as_map().map(Map::len))
            .sum();
        let n_entries = self.entries.len() - start + n_merged;
        let mut map = Map::with_capacity_and_hasher(n_entries, RandomState::default());
        let mut repeated = Vec::new();
        for (name, value) in self.entries.drain(start..) {
            match map.entry(name) {
                Entry::Vacant(entry) => _ = entry.insert(value),
                Entry::Occupied(entry) => {
                    let first = entry.get().entry_span();
                    repeated.push((entry.key().clone(), value.entry_span(), first));
                }
            }
        }
        for (name, at, first) in repeated {
            self.duplicate(&name, at, first, "remove one of the two, or rename it");
        }
        for (merge, at) in merges {
            if let Value::Map(from) = merge.value {
                for (name, mut value) in *from {
                    map.entry(name).or_insert_with(|| {
                        value.history.push(Step::MergeKey { at });
                        value
                    });
                }
            }
        }
        Ok(Node::new(whole, map.into()))
    }

    fn duplicate(&mut self, name: &str, at: Span, first: Span, help: &str) {
        let line = |s: Span| self.sources.place(s).line;
        self.diagnostics.push(
            Diagnostic::error(
                "duplicate-key",
                format!(
                    "yaml: line {}: mapping key {name:?} already defined at line {}",
                    line(at),
                    line(first)
                ),
            )
            .at(at)
            .label(first, "first defined here")
            .help(help),
        );
    }

    fn refuse_key(&mut self, key: &Node, at: Span, path: &Trail<'_>) {
        let shown = key
            .scalar_text()
            .unwrap_or_else(|| key.value.kind().to_owned());
        let place = match path.is_root() {
            true => "at top level".to_owned(),
            false => format!("in {path}"),
        };
        let diagnostic =
            Diagnostic::error("non-string-key", format!("non-string key {place}: {shown}")).at(at);
        self.diagnostics.push(match key.scalar_text() {
            Some(text) => diagnostic.help(format!("quote it: \"{text}\"")),
            None => diagnostic,
        });
    }

    /// `<<: *a`, `<<: [*a, *b]`; earlier mappings win over later ones, own keys over all.
    fn collect_merge(&mut self, value: Node, at: Span, merges: &mut Vec<(Node, Span)>) {
        match value.value {
            Value::Map(_) => merges.push((value, at)),
            Value::List(items) => {
                for item in items {
                    self.collect_merge(item, at, merges);
                }
            }
            Value::Null => {}
            _ => self.diagnostics.push(
                Diagnostic::error(
                    "merge-key",
                    "map merge requires a mapping or a list of mappings as the value",
                )
                .label(at, format!("this is {}", value.value.kind())),
            ),
        }
    }
}

/// A YAML tag as the two kinds we know: merge instructions, and core types by short name.
fn tags(tag: Option<&saphyr_parser::Tag>) -> (Option<Tag>, Option<&str>) {
    match tag {
        None => (None, None),
        Some(tag) if tag.is_yaml_core_schema() => (None, Some(&tag.suffix)),
        Some(tag) if tag.handle == "!" && tag.suffix == "reset" => (Some(Tag::Reset), None),
        Some(tag) if tag.handle == "!" && tag.suffix == "override" => (Some(Tag::Override), None),
        Some(_) => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Node>, Vec<Diagnostic>, SourceMap) {
        let mut sources = SourceMap::default();
        let file = sources.add("t.yaml".into(), text.to_owned());
        let mut diagnostics = Vec::new();
        let documents = parse(&sources, file, &mut diagnostics);
        (documents, diagnostics, sources)
    }

    fn slice(text: &str, span: Span) -> &str {
        &text[span.start as usize..span.end as usize]
    }

    #[test]
    fn spans_are_bytes_whatever_the_text() {
        let text = "ä: ünï\r\nlist: [ß, 'q']\r\nmap:\r\n  k: v\r\n";
        let (documents, diagnostics, sources) = read(text);
        assert!(diagnostics.is_empty());
        let root = &documents[0];
        let value = root.get("ä").expect("the key is there");
        assert_eq!(slice(text, value.span), "ünï");
        assert_eq!(value.key.map(|key| slice(text, key)), Some("ä"));
        let list = root.get("list").and_then(Node::as_list).expect("a list");
        assert_eq!(slice(text, list[0].span), "ß");
        assert_eq!(slice(text, list[1].span), "'q'");
        let deep = root.get("map").and_then(|m| m.get("k")).expect("a value");
        let place = sources.place(deep.span);
        assert_eq!((place.line, place.column), (4, 6));
    }

    #[test]
    fn merge_keys_fill_in_below_own_keys_y1() {
        let text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {z: 3, <<: [*a, *b]}\nl: &l [*a]\nd: {<<: *l}\n";
        let (documents, diagnostics, _) = read(text);
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        let int = |map: &str, key: &str| documents[0].get(map)?.get(key).map(|n| n.value.clone());
        assert_eq!(int("c", "x"), Some(Value::Int(1)));
        assert_eq!(
            int("c", "y"),
            Some(Value::Int(1)),
            "the earlier mapping wins"
        );
        assert_eq!(int("c", "z"), Some(Value::Int(3)), "own keys win");
        assert_eq!(int("d", "x"), Some(Value::Int(1)));
    }

    #[test]
    fn tags_and_documents() {
        let (documents, _, _) =
            read("a: !reset 1\nb: !override [x]\nc: !!str 5\n---\n# none\n---\nd: '5'\n");
        assert_eq!(documents.len(), 3);
        let tag = |key: &str| documents[0].get(key).and_then(|n| n.tag);
        assert_eq!(
            (tag("a"), tag("b")),
            (Some(Tag::Reset), Some(Tag::Override))
        );
        assert_eq!(documents[0].get_str("c"), Some("5"));
        assert!(documents[1].is_null());
        assert_eq!(documents[2].get_str("d"), Some("5"));
    }

    #[test]
    fn both_places_of_a_duplicate_key_are_named_y2() {
        let text = "a: 1\nb: 2\na: 3\n";
        let (_, diagnostics, sources) = read(text);
        assert_eq!(diagnostics.len(), 1);
        let lines: Vec<u32> = diagnostics[0]
            .labels
            .iter()
            .map(|label| sources.place(label.span).line)
            .collect();
        assert_eq!(lines, [3, 1]);
    }

    /// What libyaml reads and YAML 1.2 refuses has its value and its place all the same.
    #[test]
    fn what_only_libyaml_reads_stands_where_it_is_written() {
        let text = "ä:\n  tab:\tü\n  flow: [\n\tö, {k:\tv}, # ]\nplain\n more\n  ]\n  text: \"é\n\n  \\u00e9 \\\n\tx\"\n  last: l\n";
        let (documents, diagnostics, sources) = read(text);
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        let root = documents[0].get("ä").expect("the key is there");
        let flow = root.get("flow").and_then(Node::as_list).expect("a list");
        let in_map = flow[1].get("k").expect("a value");
        for (node, value, written, line, column) in [
            (root.get("tab").expect("it is there"), "ü", "ü", 2, 8),
            (&flow[0], "ö", "ö", 4, 2),
            (in_map, "v", "v", 4, 9),
            (&flow[2], "plain more", "plain\n more", 5, 1),
            (
                root.get("text").expect("it is there"),
                "é\né x",
                "\"é\n\n  \\u00e9 \\\n\tx\"",
                8,
                9,
            ),
            (root.get("last").expect("it is there"), "l", "l", 12, 9),
        ] {
            assert_eq!(node.as_str(), Some(value));
            assert_eq!(slice(text, node.span), written);
            let place = sources.place(node.span);
            assert_eq!((place.line, place.column), (line, column), "{written}");
        }
    }

    /// Equal, and at the same places; behind a quote or bracket the parser counts blanks in.
    fn is_same(a: &Node, b: &Node) -> bool {
        let is_placed = (a.span.start, a.key, a.tag) == (b.span.start, b.key, b.tag);
        is_placed
            && match (&a.value, &b.value) {
                (Value::List(a), Value::List(b)) => {
                    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
                }
                (Value::Map(a), Value::Map(b)) => {
                    a.len() == b.len() && a.values().zip(b.values()).all(|(a, b)| is_same(a, b))
                }
                (value, other) => value == other,
            }
    }

    /// Where both readings get to the end they are the same, places and all.
    #[test]
    fn a_sound_text_is_the_same_in_its_relaxed_form() {
        let all = include_str!("../../tests/data/compose/variations.json");
        let variations: serde_json::Value = serde_json::from_str(all).expect("it is JSON");
        let files = variations
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|variation| variation["files"].as_object())
            .flat_map(|files| files.values());
        let texts = files.filter_map(serde_json::Value::as_str);
        let mut n_changed = 0;
        for text in texts.chain([all]) {
            let mut sources = SourceMap::default();
            let file = sources.add("t.yaml".into(), text.to_owned());
            let strict = super::read(&sources, file, (text, text));
            let relaxed = lenient::relax(text);
            if strict.refused_at.is_some() || relaxed == text {
                continue;
            }
            n_changed += 1;
            let loose = super::read(&sources, file, (text, &relaxed));
            let mut both = strict.documents.iter().zip(&loose.documents);
            assert!(both.all(|(a, b)| is_same(a, b)), "{text:.2000}");
            assert_eq!(strict.documents.len(), loose.documents.len());
            assert_eq!(strict.diagnostics, loose.diagnostics, "{text:.2000}");
        }
        assert!(n_changed > 20, "only {n_changed} texts have such lines");
    }

    #[test]
    fn the_mistake_that_is_left_is_told() {
        let help = |text: &str| {
            let (_, diagnostics, sources) = read(text);
            let found = diagnostics.first().expect("a mistake");
            let line = sources.place(found.labels[0].span).line;
            (line, found.help.clone().unwrap_or_default())
        };
        assert_eq!(help("a:\tb\nc: [\nx]\nd: e: f\n").0, 4);
        assert_eq!(help("a:\n  b: [unclosed\n  c: d\n").0, 3);
        assert_eq!(help("a:\tb\nc: [d\n").0, 3);
        let (line, tabs) = help("a:\n  b: c\n\td: e\n");
        assert!(line == 3 && tabs.contains("spaces"), "{line} {tabs}");
    }

    /// A tab on each line is one more reading of the file, not one for each.
    #[test]
    fn many_tabs_are_read_in_one_go() {
        let text = "a:\tb\nk: [\n\tx,\n\ty]\n---\n".repeat(20_000);
        let (documents, diagnostics, _) = read(&text);
        assert!(diagnostics.is_empty());
        assert_eq!(documents.len(), 20_001);
    }

    #[test]
    fn documents_before_a_syntax_error_are_kept() {
        let (documents, diagnostics, _) = read("a: 1\n---\nb: [\n");
        assert_eq!((documents.len(), diagnostics.len()), (1, 1));
        assert_eq!(diagnostics[0].code, "yaml-syntax");
    }
}
