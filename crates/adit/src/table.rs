//! Tables as cloudflared prints them: columns padded to the widest cell, each followed by a space (tunnel protocol, 6.5).

/// The lines of a table, its header first.
pub(crate) fn lines(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let header: Vec<String> = header.iter().map(|&title| title.to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 1));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_column_is_as_wide_as_its_widest_cell_and_a_space() {
        let rows = [vec!["1".to_owned(), "kubernetes".to_owned()], vec!["22".to_owned(), String::new()]];
        assert_eq!(super::lines(&["ID", "NAME"], &rows), "ID NAME       \n1  kubernetes \n22            \n");
    }
}
