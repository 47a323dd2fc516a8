//! A cell of a table.

/// The median with the least and the greatest; a dash of nothing.
pub(crate) fn cell(values: impl IntoIterator<Item = f64>, digits: usize) -> String {
    crate::spread::spread(values).map_or("–".into(), |[median, least, greatest]| {
        format!("{median:.digits$} ({least:.digits$}–{greatest:.digits$})")
    })
}
