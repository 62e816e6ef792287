//! [`Table`]: rows of cells, printed in aligned columns that fit the width of the terminal.

use std::io::{self, Write as _};
use std::ops::Range;

use anstyle::Style;

use super::terminal::{HEADER, NARROWEST, TextWriter, columns, longest_word, wrap};

/// Number of spaces between two columns of a table.
const GAP: usize = 2;
/// Minimum width to which a cell is shortened, in characters.
const SHORTEST: usize = 16;
/// Additional indentation of the part of a row that does not fit on the first line of the row, in spaces.
const CONTINUATION: usize = 4;

/// One line of a cell's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Line {
    text: String,
    /// True for a command. A command is never broken into lines, so that it can be copied.
    is_command: bool,
}

impl Line {
    /// Returns the minimum width in which the line can be printed, in characters. A narrower width would break a word
    /// or a command.
    fn least(&self) -> usize {
        if self.is_command { columns(&self.text) } else { longest_word(&self.text) }
    }
}

/// Cell of a table: its text, usually one line, and the style of the text on a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    /// Less important end of the text. If the cell is shortened, this part is left out first.
    detail: String,
    /// Further lines, printed below the first line of the text.
    below: Vec<Line>,
    style: Style,
}

impl Cell {
    /// Creates a cell whose text is printed in `style`.
    #[must_use]
    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style, ..Self::default() }
    }

    /// Appends `detail` to the text of the cell. It is less important than the rest, so a shortened cell loses it
    /// first.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// Adds a line below the text of the cell. Only cells of a table's last column may have several lines.
    #[must_use]
    pub fn with_line(mut self, text: impl Into<String>) -> Self {
        self.below.push(Line { text: text.into(), is_command: false });
        self
    }

    /// Adds a command as a line below the text of the cell, like [`with_line`](Self::with_line). A command is never
    /// broken into lines.
    #[must_use]
    pub fn with_command(mut self, text: impl Into<String>) -> Self {
        self.below.push(Line { text: text.into(), is_command: true });
        self
    }

    /// Returns all lines of the cell's text.
    fn lines(&self) -> Vec<Line> {
        let first = Line { text: self.whole(), is_command: false };
        std::iter::once(first).chain(self.below.iter().cloned()).collect()
    }

    /// Returns the first line of the cell's text, with the detail.
    fn whole(&self) -> String {
        format!("{}{}", self.text, self.detail)
    }

    /// Returns the width of the cell's longest line, in characters.
    fn width(&self) -> usize {
        self.lines().iter().map(|line| columns(&line.text)).max().unwrap_or(0)
    }

    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.detail.is_empty() && self.below.is_empty()
    }

    /// Returns the first line of the cell, shortened to at most `width` characters. If a shortened line would have too
    /// little space for the rest, the detail is left out. Then `…` replaces the beginning of the text.
    fn shortened(&self, width: usize) -> String {
        let whole = self.whole();
        if columns(&whole) <= width {
            return whole;
        }
        let detail = if width < columns(&self.detail) + SHORTEST / 2 { "" } else { &self.detail };
        let width = width - columns(detail);
        let count = columns(&self.text);
        if count <= width {
            return format!("{}{detail}", self.text);
        }
        let end: String = self.text.chars().skip(count - width + 1).collect();
        format!("…{end}{detail}")
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// Table of cells. In a pipe or a file, all cells are printed whole. On a narrow terminal, the cells of one column are
/// shortened, and those of the last column are wrapped. If a row still does not fit, its last cells are printed on the
/// next line.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<Cell>>,
    shortened: Option<usize>,
    indent: usize,
}

/// Neighbouring columns of a table that are printed on the same line.
struct Group {
    columns: Range<usize>,
    indent: usize,
}

impl Table {
    /// Creates an empty table without a header.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a table whose first row is the header `header`.
    #[must_use]
    pub fn with_header<const COUNT: usize>(header: [&str; COUNT]) -> Self {
        let mut table = Self::new();
        table.push(header.map(|name| Cell::styled(name, HEADER)));
        table
    }

    /// Allows the cells of column number `column` to be shortened on a narrow terminal. A shortened cell loses its
    /// beginning, so the file name of a path remains.
    #[must_use]
    pub fn shorten(self, column: usize) -> Self {
        Self { shortened: Some(column), ..self }
    }

    /// Sets the number of spaces that are printed before every row.
    #[must_use]
    pub fn indent(self, indent: usize) -> Self {
        Self { indent, ..self }
    }

    /// Adds a row at the end of the table.
    pub fn push(&mut self, row: impl IntoIterator<Item = Cell>) {
        self.rows.push(row.into_iter().collect());
    }

    /// Writes the whole table to `text`.
    pub fn write(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        let mut widths = self.widths();
        let groups = match text.terminal.width {
            Some(width) => self.fit(&mut widths, width),
            None => vec![Group { columns: 0..widths.len(), indent: self.indent }],
        };
        for row in &self.rows {
            for (index, group) in groups.iter().enumerate() {
                let cells =
                    row.get(group.columns.start..row.len().min(group.columns.end)).unwrap_or_default();
                if index == 0 || cells.iter().any(|cell| !cell.is_empty()) {
                    self.write_line(text, group, cells, &widths)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the cells of one row that belong to the columns of `group`, on one line.
    fn write_line(
        &self,
        text: &mut TextWriter<'_>,
        group: &Group,
        cells: &[Cell],
        widths: &[usize],
    ) -> io::Result<()> {
        let mut padding = group.indent;
        let mut position = group.indent;
        for (cell, index) in cells.iter().zip(group.columns.clone()) {
            let width = widths.get(index).copied().unwrap_or_default();
            let is_last = index + 1 == group.columns.end && self.shortened != Some(index);
            if is_last && !cell.is_empty() {
                self.write_last(text, cell, padding, position)?;
            } else if cell.is_empty() {
                padding += width + GAP;
            } else {
                let shown = cell.shortened(width);
                write!(text, "{:padding$}", "")?;
                text.write_styled(cell.style, &shown)?;
                padding = width.saturating_sub(columns(&shown)) + GAP;
            }
            position += width + GAP;
        }
        writeln!(text)
    }

    /// Writes the last cell of a line at column `position`, after `padding` spaces. If the cell does not fit there, it
    /// is written on the next line.
    fn write_last(
        &self,
        text: &mut TextWriter<'_>,
        cell: &Cell,
        padding: usize,
        position: usize,
    ) -> io::Result<()> {
        let Some(width) = text.terminal.width else {
            return write_lines(text, cell, &cell.lines(), padding, position);
        };
        let available = width.saturating_sub(position);
        let least = cell.lines().iter().map(Line::least).max().unwrap_or(0);
        let fits = cell.width() <= available || available >= NARROWEST && least <= available;
        let moved = self.indent + CONTINUATION;
        if fits || position <= moved {
            let lines = wrapped(cell, available);
            return write_lines(text, cell, &lines, padding, position);
        }
        let lines = wrapped(cell, width.saturating_sub(moved));
        writeln!(text)?;
        write_lines(text, cell, &lines, moved, moved)
    }

    /// Returns the width of each column of the table, in characters.
    fn widths(&self) -> Vec<usize> {
        let count = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(Cell::width).max().unwrap_or(0)
        };
        (0..count).map(width).collect()
    }

    /// Decides which columns are printed on the same line of a terminal with the width `available`, and reduces the
    /// width of the column that may be shortened.
    fn fit(&self, widths: &mut [usize], available: usize) -> Vec<Group> {
        let shortest = |column: usize, width: usize| {
            if self.shortened == Some(column) { width.min(SHORTEST) } else { width }
        };
        let mut groups = vec![Group { columns: 0..0, indent: self.indent }];
        let mut used = 0;
        for (column, width) in widths.iter().enumerate() {
            let needed = shortest(column, *width) + if used > 0 { GAP } else { 0 };
            let Some(group) = groups.last_mut() else { break };
            // The last column is wrapped.
            let is_last = column + 1 == widths.len();
            if used > 0 && group.indent + used + needed > available && !is_last {
                let indent = self.indent + CONTINUATION;
                groups.push(Group { columns: column..column + 1, indent });
                used = shortest(column, *width);
            } else {
                group.columns.end = column + 1;
                used += needed;
            }
        }
        if let Some(column) = self.shortened
            && let Some(group) = groups.iter().find(|group| group.columns.contains(&column))
        {
            let others: usize = group
                .columns
                .clone()
                .filter(|other| *other != column)
                .filter_map(|other| widths.get(other))
                .map(|width| width + GAP)
                .sum();
            if let Some(width) = widths.get_mut(column) {
                let room = available.saturating_sub(group.indent + others);
                *width = (*width).min(room.max(SHORTEST));
            }
        }
        groups
    }
}

/// Returns the lines of a cell's text. Lines longer than `width` characters are broken at spaces, except commands.
fn wrapped(cell: &Cell, width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    for line in cell.lines() {
        if line.is_command {
            lines.push(line);
        } else {
            let parts = wrap(&line.text, width, width).into_iter();
            lines.extend(parts.map(|text| Line { text, is_command: false }));
        }
    }
    lines
}

/// Writes the lines of a cell: the first one after `padding` spaces, each other one on a new line that begins with
/// `position` spaces.
fn write_lines(
    text: &mut TextWriter<'_>,
    cell: &Cell,
    lines: &[Line],
    padding: usize,
    position: usize,
) -> io::Result<()> {
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            write!(text, "\n{:position$}", "")?;
        } else {
            write!(text, "{:padding$}", "")?;
        }
        text.write_styled(cell.style, &line.text)?;
    }
    Ok(())
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

    fn on(width: usize, table: &Table) -> String {
        printed(table, Terminal { width: Some(width), color: false })
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
    fn a_cell_that_does_not_fit_moves_to_the_next_line() {
        let mut moved = Table::new();
        moved.push(["arm", "working", "/usr/local/lib/qus/qemu-arm-static (QEMU 10)"].map(Cell::from));
        moved.push(["x86_64", "native", "it runs natively"].map(Cell::from));
        let expected = "arm     working\n    /usr/local/lib/qus/qemu-arm-static\n    (QEMU 10)\n\
                        x86_64  native   it runs natively\n";
        assert_eq!(on(43, &moved), expected);
        let mut wide = Table::new();
        wide.push(["ARCH", "DESCRIPTION", "OTHER NAMES"].map(Cell::from));
        wide.push(["arm", "32-bit Arm, little-endian", "armel armhf armv4l"].map(Cell::from));
        let expected = "ARCH\n    DESCRIPTION                OTHER NAMES\narm\n    32-bit Arm, little-endian\n    armel armhf armv4l\n";
        assert_eq!(on(30, &wide), expected.replace("                OTHER", "\n    OTHER"));
    }

    #[test]
    fn a_command_is_not_broken_into_lines() {
        let command = "try: mount -t binfmt_misc none /proc/sys/fs/binfmt_misc";
        let mut table = Table::new();
        let text = Cell::from("binfmt_misc is not mounted").with_line("nothing works").with_command(command);
        table.push(["problem".into(), text]);
        let below = |indent: &str| format!("{indent}nothing works\n{indent}{command}\n");
        let beside = format!("problem  binfmt_misc is not mounted\n{}", below(&" ".repeat(9)));
        assert_eq!(printed(&table, Terminal::default()), beside);
        assert_eq!(on(64, &table), beside);
        let moved = format!("problem\n    binfmt_misc is not mounted\n{}", below("    "));
        assert_eq!(on(63, &table), moved);
    }

    #[test]
    fn a_detail_is_cut_before_the_rest() {
        let cell = Cell::from("/usr/bin/qemu-arm").with_detail(" (QEMU 10)");
        assert_eq!(cell.shortened(27), "/usr/bin/qemu-arm (QEMU 10)");
        assert_eq!(cell.shortened(20), "…qemu-arm (QEMU 10)".replace("…", "…/"));
        assert_eq!(cell.shortened(17), "/usr/bin/qemu-arm");
        assert_eq!(cell.shortened(16), "…sr/bin/qemu-arm");
    }

    #[test]
    fn states_are_coloured() {
        let colored = printed(&table(), Terminal { width: None, color: true });
        assert!(colored.contains("\x1b[32marm\x1b[0m   /usr"), "{colored:?}");
        assert!(colored.starts_with("\x1b[1mARCH\x1b[0m  \x1b[1mINTER"), "{colored:?}");
    }
}
