//! [`Table`]: rows of cells in columns that fit the terminal.

use std::io::{self, Write as _};

use anstyle::Style;

use super::terminal::{HEADER, TextWriter, columns, wrap};

/// Number of spaces between two columns.
const GAP: usize = 2;
/// Minimum width of a shortened cell, in columns.
const SHORTEST: usize = 16;

/// A cell: one line of text, and its style on a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Creates a cell with a style.
    #[must_use]
    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), style: Style::new() }
    }
}

/// Rows of cells. Output that is not a terminal has whole cells. On a narrow terminal, one column is shortened, and the
/// last column is wrapped.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<Cell>>,
    shortened: Option<usize>,
    indent: usize,
}

impl Table {
    /// Creates a table without a header.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a table with a header.
    #[must_use]
    pub fn with_header<const COUNT: usize>(header: [&str; COUNT]) -> Self {
        let mut table = Self::new();
        table.push(header.map(|name| Cell::styled(name, HEADER)));
        table
    }

    /// Allows cells of `column` to be shortened on a narrow terminal. A cell loses its beginning, so the file name of a
    /// path remains.
    #[must_use]
    pub fn shorten(self, column: usize) -> Self {
        Self { shortened: Some(column), ..self }
    }

    /// Sets the number of spaces before every row.
    #[must_use]
    pub fn indent(self, indent: usize) -> Self {
        Self { indent, ..self }
    }

    /// Adds a row.
    pub fn push(&mut self, row: impl IntoIterator<Item = Cell>) {
        self.rows.push(row.into_iter().collect());
    }

    /// Writes the table.
    pub fn write(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        let widths = self.widths(text.terminal.width.map(|width| width.saturating_sub(self.indent)));
        let before_last: usize =
            widths.iter().rev().skip(1).map(|width| width + GAP).sum::<usize>() + self.indent;
        for row in &self.rows {
            write!(text, "{:1$}", "", self.indent)?;
            let mut padding = 0;
            for (index, cell) in row.iter().enumerate() {
                if cell.text.is_empty() {
                    padding += widths.get(index).map_or(0, |width| width + GAP);
                    continue;
                }
                write!(text, "{:padding$}", "")?;
                padding = 0;
                let is_last = index + 1 == widths.len();
                if is_last {
                    write_last(text, cell, before_last)?;
                } else {
                    let width = widths.get(index).copied().unwrap_or_default();
                    let shown = shortened(&cell.text, width);
                    text.write_styled(cell.style, &shown)?;
                    padding = width.saturating_sub(columns(&shown)) + GAP;
                }
            }
            writeln!(text)?;
        }
        Ok(())
    }

    /// Returns the width of each column.
    fn widths(&self, available: Option<usize>) -> Vec<usize> {
        let count = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| columns(&cell.text)).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..count).map(width).collect();
        if let Some((available, column)) = available.zip(self.shortened) {
            let needed = widths.iter().sum::<usize>() + GAP * count.saturating_sub(1);
            if let Some(width) = widths.get_mut(column).filter(|width| **width > SHORTEST) {
                *width = width.saturating_sub(needed.saturating_sub(available)).max(SHORTEST);
            }
        }
        widths
    }
}

/// Writes the last cell of a row, wrapped to the width that remains after `indent`.
fn write_last(text: &mut TextWriter<'_>, cell: &Cell, indent: usize) -> io::Result<()> {
    let Some(width) = text.terminal.width else { return text.write_styled(cell.style, &cell.text) };
    let width = width.saturating_sub(indent);
    for (index, line) in wrap(&cell.text, width, width).iter().enumerate() {
        if index > 0 {
            write!(text, "\n{:indent$}", "")?;
        }
        text.write_styled(cell.style, line)?;
    }
    Ok(())
}

/// Shortens a text to `width` columns. `…` replaces its beginning.
fn shortened(text: &str, width: usize) -> String {
    let count = columns(text);
    if count <= width {
        return text.to_owned();
    }
    std::iter::once('…').chain(text.chars().skip(count - width + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::terminal::{GOOD, Terminal};

    fn printed(table: &Table, terminal: Terminal) -> String {
        let mut data = Vec::new();
        table.write(&mut TextWriter::new(&mut data, terminal)).unwrap();
        String::from_utf8(data).unwrap()
    }

    fn table() -> Table {
        let mut table = Table::with_header(["ARCH", "INTERPRETER", "NOTE"]).shorten(1);
        table.push([
            Cell::styled("arm", GOOD),
            "/usr/local/lib/qus/qemu-arm-static".into(),
            "some words to read".into(),
        ]);
        table.push([Cell::default(), Cell::default(), "more".into()]);
        table
    }

    #[test]
    fn columns_line_up() {
        let expected = "ARCH  INTERPRETER                         NOTE\n\
                        arm   /usr/local/lib/qus/qemu-arm-static  some words to read\n                                          more\n";
        assert_eq!(printed(&table(), Terminal::default()), expected);
        let mut short = Table::new();
        short.push(["a", "bb", "c c"].map(Cell::from));
        short.push(["aaa", "", "d"].map(Cell::from));
        short.push(["e"].map(Cell::from));
        assert_eq!(printed(&short, Terminal::default()), "a    bb  c c\naaa      d\ne\n");
    }

    #[test]
    fn a_narrow_terminal_gets_every_row_within_its_width() {
        let narrow = printed(&table(), Terminal { width: Some(50), color: false });
        assert!(narrow.lines().all(|line| columns(line) <= 50), "{narrow}");
        assert!(narrow.contains("  …lib/qus/qemu-arm-static  some words to read\n"), "{narrow}");
        let narrower = printed(&table(), Terminal { width: Some(44), color: false });
        assert!(narrower.lines().all(|line| columns(line) <= 44), "{narrower}");
    }

    #[test]
    fn states_are_coloured() {
        let colored = printed(&table(), Terminal { width: None, color: true });
        assert!(colored.contains("\x1b[32marm\x1b[0m   /usr"), "{colored:?}");
        assert!(colored.starts_with("\x1b[1mARCH\x1b[0m  \x1b[1mINTER"), "{colored:?}");
    }
}
