//! Tables for people. Every cell is made safe for terminals here, so that no caller can forget it.

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table as Grid, presets};

use super::{console::Style, text::printable};

/// Spaces between columns.
const GAP: u16 = 2;

/// What a cell says, in colour where there is colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
    Faint,
}

/// A table under construction.
pub(super) struct Table {
    grid: Grid,
    style: Style,
}

impl Table {
    /// With one heading per column.
    pub(super) fn new(headings: &[&str], style: Style) -> Self {
        let mut table = Self { grid: Grid::new(), style };
        table.grid.load_preset(presets::NOTHING).force_no_tty();
        if style.colour {
            table.grid.enforce_styling();
        }
        if let Some(width) = style.width {
            table.grid.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        if !headings.is_empty() {
            let heading = |text: &&str| {
                let cell = Cell::new(text);
                if style.colour { cell.add_attribute(Attribute::Bold) } else { cell }
            };
            table.grid.set_header(headings.iter().map(heading));
        }
        table
    }

    /// One row of plain cells.
    pub(super) fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.toned_row(cells.map(|text| (text, Tone::Plain)));
    }

    /// One row of cells with their tones.
    pub(super) fn toned_row<const N: usize>(&mut self, cells: [(&str, Tone); N]) {
        let colour = self.style.colour;
        self.grid.add_row(cells.map(|(text, tone)| {
            let cell = Cell::new(printable(text));
            match tone {
                Tone::Good if colour => cell.fg(Color::Green),
                Tone::Warning if colour => cell.fg(Color::Yellow),
                Tone::Bad if colour => cell.fg(Color::Red),
                Tone::Faint if colour => cell.add_attribute(Attribute::Dim),
                Tone::Plain | Tone::Good | Tone::Warning | Tone::Bad | Tone::Faint => cell,
            }
        }));
    }

    /// The lines, without spaces at their ends, each with a newline.
    pub(super) fn finish(mut self) -> String {
        for column in self.grid.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        let mut text = String::new();
        for line in self.grid.lines() {
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
    fn cells_are_safe_and_aligned() {
        let mut table = Table::new(&["NAME", "PATH"], Style::PLAIN);
        table.row(["a", "/bin/\u{1b}[2J"]);
        table.row(["longer", "/bin/x"]);
        assert_eq!(table.finish(), "NAME    PATH\na       /bin/\\u{1b}[2J\nlonger  /bin/x\n");
    }

    #[test]
    fn colours_only_when_asked_for() {
        let text = |style| {
            let mut table = Table::new(&["STATE"], style);
            table.toned_row([("live", Tone::Good)]);
            table.finish()
        };
        assert!(!text(Style::PLAIN).contains('\u{1b}'));
        assert!(text(Style { colour: true, width: None }).contains('\u{1b}'));
    }

    #[test]
    fn wide_rows_are_wrapped_to_the_terminal() {
        let mut table = Table::new(&["A", "B"], Style { colour: false, width: Some(30) });
        table.row(["x", &"word ".repeat(20)]);
        assert!(table.finish().lines().all(|line| line.chars().count() <= 30));
    }
}
