//! `_run/report.html`: what people read of a finished run.

use crate::support::{TERMS, Workspace, lines};

/// Markup in names, reasons, errors and rows is text; nothing is loaded or run; the same run gives the same page.
#[test]
fn the_page_is_safe_complete_and_repeatable() {
    let workspace = Workspace::new();
    workspace.write("terms.txt", TERMS);
    let bad = "{\"id\": 1, \"text\": <script>alert(1)</script>\n{\"id\": 2, \"text\": {\"<b>\": \"\u{202e}\"}}\n";
    workspace.write("corpus/a <i>&.jsonl", lines(0, 250) + bad);
    workspace.write("corpus/b.jsonl", lines(250, 150));
    let text = "name: \"</title><script>alert(2)</script>\"\ndescription: '\"><img src=x onerror=alert(3)>'\n\
                source: {path: corpus, split_size: 100 rows}\nsteps:\n\
                \x20 - blocklist: {name: word_filter, terms: terms.txt}\n\
                \x20 - filter: {keep: NOT word_filter, reason: '<script>alert(4)</script> & more'}\n\
                sink: {parquet: {path: out}}\n";
    workspace.write("p.yaml", text);
    workspace.run(&["run", "p.yaml", "--quiet"], 0);
    let page = std::fs::read_to_string(workspace.path("out/_run/report.html")).unwrap();
    for markup in [
        "<script",
        "<img",
        "a <i>",
        "<b>\"",
        "<link",
        "@import",
        "url(",
        "\" src=",
        "\" href=",
        "onerror=alert(3)>",
        "\u{202e}",
    ] {
        assert!(!page.contains(markup), "{markup} in\n{page}");
    }
    let flagged = 400_usize.div_ceil(7);
    for part in [
        "<html lang=\"en\">",
        "<b>402</b> rows in",
        &format!("<b>{}</b> kept", 400 - flagged),
        &format!("<b>{flagged}</b> rejected"),
        "<b>2</b> quarantined",
        "&lt;script&gt;alert(1)",
        "&lt;script&gt;alert(4)&lt;&#x2f;script&gt; &amp; more",
        "word_filter",
        "\\u{202e}",
        "a%20&lt;i&gt;&amp;.jsonl, row 251, byte ",
        "Rows kept, rejected and quarantined by split",
        "<rect class=\"rejected\"",
        "Term lists, tokenizers and other resources (1)",
        "<td class=\"path\">terms.txt</td>",
        "split_size",
    ] {
        let found = page.contains(part) || page.contains(&part.replace("&#x2f;", "/"));
        assert!(found, "no {part:?} in\n{page}");
    }
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(workspace.path("out/_run/report.json")).unwrap()).unwrap();
    assert!(page.contains(report["fingerprint"].as_str().unwrap()));

    workspace.run(&["run", "p.yaml", "--quiet"], 0);
    assert_eq!(std::fs::read_to_string(workspace.path("out/_run/report.html")).unwrap(), page);
}

/// A run of nothing has a page, too.
#[test]
fn a_run_without_rows() {
    let workspace = Workspace::new();
    workspace.write("corpus/a.jsonl", "");
    workspace.write("p.yaml", "source: {path: corpus}\nsink: {parquet: {path: out}}\n");
    workspace.run(&["run", "p.yaml", "--quiet"], 0);
    let page = std::fs::read_to_string(workspace.path("out/_run/report.html")).unwrap();
    assert!(page.contains("<b>0</b> rows in"), "{page}");
}
