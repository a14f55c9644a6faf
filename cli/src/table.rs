//! Plain text tables, columns as wide as their widest cell.

use heddle_acceptor::clean;

/// The widest cell, in characters.
const MAX_CELL: usize = 100;

/// The widest cell of the last column, in characters.
const MAX_LAST: usize = 2000;

/// Lines of a table; the last column is not padded. A row is always one line: its cells are cleaned and cut.
pub fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let last = head.len().saturating_sub(1);
    let max = |column| if column == last { MAX_LAST } else { MAX_CELL };
    let head: Vec<String> = head.iter().map(|title| (*title).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(&head)
        .chain(rows)
        .map(|row| {
            let cells = row.iter().take(head.len()).enumerate();
            cells
                .map(|(column, cell)| clean(cell, max(column)))
                .collect()
        })
        .collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let line = |row: &Vec<String>| {
        let padded: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| {
                let padding = width.saturating_sub(cell.chars().count());
                format!("{cell}{}", " ".repeat(padding))
            })
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The first rows of a table, and how many there are beyond. Nothing without rows.
pub fn first(head: &[&str], mut rows: Vec<Vec<String>>, at_most: usize) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let more = rows.len().saturating_sub(at_most);
    rows.truncate(at_most);
    let text = render(head, &rows);
    match more {
        0 => text,
        more => format!("{text}\nand {more} more (-o json has all)"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["a".into(), "1".into()],
            vec!["longer".into(), "22".into()],
        ];
        assert_eq!(
            super::render(&["WHO", "N"], &rows),
            "WHO     N\na       1\nlonger  22"
        );
    }

    #[test]
    fn a_cell_of_any_width_is_cut_and_forges_no_row() {
        let wide = vec![
            "x".repeat(70_000),
            "\u{1b}]0;title\u{7}".to_owned(),
            "in sync\nshop/b".to_owned(),
        ];
        let text = super::render(&["A", "B", "C"], &[wide]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[1].ends_with("…  ]0;title  in sync shop/b"), "{text}");
        assert_eq!(lines[1].chars().count(), super::MAX_CELL + 2 + 8 + 2 + 14);
    }

    proptest! {
        #[test]
        fn every_row_is_one_printable_line(
            rows in prop::collection::vec(prop::collection::vec(any::<String>(), 0..5), 0..6),
            width in 0usize..80_000,
        ) {
            let mut rows = rows;
            rows.push(vec!["w".repeat(width); 3]);
            let text = super::render(&["A", "B", "C"], &rows);
            prop_assert_eq!(text.split('\n').count(), rows.len() + 1);
            prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
        }
    }
}
