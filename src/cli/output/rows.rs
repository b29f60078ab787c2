//! `--format` of commands that list things: a table, a table of chosen columns, a template for each
//! row, or JSON lines.

use serde_json::{Map, Value};

use super::failure::{Failure, Kind};
use super::table::Table;
use super::template::Template;

/// Rows of named cells, and how they are to be printed.
pub struct Rows<'a> {
    /// Of all cells: the field's name in templates, and the head of its column.
    pub columns: &'a [(&'a str, &'a str)],
    /// Names of the columns of the plain table.
    pub shown: Vec<&'a str>,
    pub rows: Vec<Vec<String>>,
}

impl Rows<'_> {
    /// The whole text, each line with its end.
    pub fn render(&self, format: &str) -> Result<String, Failure> {
        if format == "json" {
            return Ok(self.values().map(|value| format!("{value}\n")).collect());
        }
        if format.is_empty() || format == "table" {
            return Ok(self.table());
        }
        let (is_table, text) = match format.strip_prefix("table ") {
            Some(rest) => (true, rest.trim_start()),
            None => (false, format),
        };
        let wrong = |why: String| {
            let known: Vec<&str> = self.columns.iter().map(|(name, _)| *name).collect();
            Failure::new(Kind::Usage, format!("cannot format as {format:?}: {why}"))
                .hint(format!("the fields are {}", known.join(", ")))
        };
        let template = Template::parse(text).map_err(wrong)?;
        let mut lines = Vec::new();
        for value in self.values() {
            lines.push(template.render(&value).map_err(wrong)?);
        }
        if !is_table {
            return Ok(lines.iter().map(|line| format!("{line}\n")).collect());
        }
        let head = template.head(&|field| {
            let column = self.columns.iter().find(|(name, _)| *name == field);
            column.map_or(field, |(_, head)| head).to_owned()
        });
        let head: Vec<&str> = head.split('\t').collect();
        let mut table = Table::new(&head);
        for line in &lines {
            table.row(line.split('\t').map(str::to_owned));
        }
        Ok(table.render())
    }

    fn values(&self) -> impl Iterator<Item = Value> {
        self.rows.iter().map(|row| {
            let cells = self.columns.iter().zip(row);
            let map: Map<String, Value> = cells
                .map(|((name, _), cell)| ((*name).to_owned(), cell.clone().into()))
                .collect();
            Value::Object(map)
        })
    }

    fn table(&self) -> String {
        let at = |name: &&str| self.columns.iter().position(|(known, _)| known == name);
        let positions: Vec<usize> = self.shown.iter().filter_map(at).collect();
        let head: Vec<&str> = positions.iter().map(|at| self.columns[*at].1).collect();
        let mut table = Table::new(&head);
        for row in &self.rows {
            table.row(positions.iter().map(|at| row[*at].clone()));
        }
        table.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_a_table_a_template_or_json() {
        let rows = Rows {
            columns: &[("ID", "IMAGE ID"), ("Size", "SIZE")],
            shown: vec!["ID"],
            rows: vec![vec!["1".to_owned(), "2MB".to_owned()]],
        };
        assert_eq!(rows.render("table").unwrap(), "IMAGE ID\n1\n");
        assert_eq!(rows.render("{{.Size}}").unwrap(), "2MB\n");
        assert_eq!(
            rows.render("table {{.Size}}\\t{{.ID}}").unwrap(),
            "SIZE   IMAGE ID\n2MB    1\n"
        );
        assert_eq!(
            rows.render("json").unwrap(),
            "{\"ID\":\"1\",\"Size\":\"2MB\"}\n"
        );
        assert!(rows.render("{{.Nothing}}").is_err());
    }
}
