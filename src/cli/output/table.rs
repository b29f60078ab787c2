//! Tables as the Docker CLI draws them: a head, left-aligned columns, three spaces between them.

use super::visible;

/// Rows of text under a head.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Table {
        Table {
            rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()],
        }
    }

    /// Adds a row; its cells are made harmless here.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| visible(&cell).into_owned());
        self.rows.push(cells.collect());
    }

    /// The whole table, each line with its end.
    pub fn render(&self) -> String {
        let n_columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..n_columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                let missing = width + 3 - cell.chars().count();
                line.extend(std::iter::repeat_n(' ', missing));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_names_are_harmless() {
        let mut table = Table::new(&["NAME", "STATUS", "PORTS"]);
        table.row(["demo-web-1".into(), "Up 3 seconds".into(), "80/tcp".into()]);
        table.row(["x\x1b[2J".into(), "Created".into(), String::new()]);
        insta::assert_snapshot!(table.render(), @r"
        NAME         STATUS         PORTS
        demo-web-1   Up 3 seconds   80/tcp
        x\x1b[2J     Created
        ");
    }
}
