//! What differs → one page of HTML, in the dress of a release's `report.html`.

use super::diff::{Change, Difference};
use crate::release::report::{escape, page};

/// The page; it depends on `difference` alone.
pub fn difference(difference: &Difference) -> String {
    let title = format!("{} → {}", difference.a, difference.b);
    let mut body =
        format!("<header><h1>{}</h1><p>{}</p></header>", escape(&title), escape(&difference.summary()));
    let mut place = None;
    for change in &difference.changes {
        let here = (change.what, change.place.as_str());
        if place != Some(here) {
            body += if place.is_some() { "</table></div></section>" } else { "" };
            let of = if change.place.is_empty() { String::new() } else { format!(" of {}", change.place) };
            body += &format!(
                "<section><h2>{}{}</h2><div class=scroll><table><thead><tr><th>Name<th>Before<th>After<th class=n>Size<tbody>",
                change.what.plural(),
                escape(&of)
            );
            place = Some(here);
        }
        body += &row(change);
    }
    body += if place.is_some() { "</table></div></section>" } else { "" };
    page(&title, &body)
}

fn row(change: &Change) -> String {
    let class = match (&change.old, &change.new) {
        (None, _) => "add",
        (_, None) => "gone",
        _ => "same",
    };
    let cell = |value: &Option<String>| match value.as_deref().map(|v| (v, v.strip_prefix("sha256:"))) {
        Some((_, Some(rest))) => {
            // A digest's first digits tell it apart for the eye; what follows it (attributes) stays whole.
            let (hex, more) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
            format!("<code>{}{}</code>", escape(hex.get(..12).unwrap_or(hex)), escape(more))
        }
        Some((value, None)) => escape(value),
        None => String::new(),
    };
    format!(
        "<tr><td class={class}>{}<td>{}<td>{}<td class=n>{}",
        escape(&change.name),
        cell(&change.old),
        cell(&change.new),
        change.size_text().unwrap_or_default()
    )
}
