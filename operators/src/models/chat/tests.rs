//! Texts against those that transformers makes of the same conversations.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};

use super::{ChatError, ChatTemplate};
use crate::Resources;
use crate::models::tests::reference;
use crate::tokens::Tokenizer;

fn template(source: &str) -> ChatTemplate {
    let token = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    ChatTemplate::new(source, [token("bos_token", "<s>"), token("eos_token", "</s>")]).unwrap()
}

fn render(source: &str) -> Result<String, ChatError> {
    template(source).render(&[json!({"role": "user", "content": "Hi"})], false)
}

#[test]
fn texts_are_those_of_transformers() {
    let fixture: Value = serde_json::from_str(include_str!("cases/chat.json")).unwrap();
    let (mut texts, mut refused) = (0, 0);
    for (name, source) in fixture["templates"].as_object().unwrap() {
        let template = template(source.as_str().unwrap());
        for (number, conversation) in fixture["conversations"].as_array().unwrap().iter().enumerate() {
            let got = template.render(conversation.as_array().unwrap(), number % 2 == 1);
            let expected = &fixture["rendered"][name][number];
            match expected.get("error") {
                Some(error) => {
                    let Err(ChatError::Refused(message)) = got else { panic!("{name} {number}: {got:?}") };
                    assert_eq!(message, error.as_str().unwrap(), "{name} {number}");
                    refused += 1;
                }
                None => {
                    assert_eq!(got.unwrap(), expected.as_str().unwrap(), "{name} {number}");
                    texts += 1;
                }
            }
        }
    }
    assert_eq!((texts, refused), (110, 10));
}

#[test]
fn templates_that_fail_say_where() {
    for (source, expected) in [
        ("a\n{% if %}", "(line 2)"),
        ("{{ messages[0].content.nothing() }}", "nothing"),
        ("{{ missing.part }}", "undefined"),
        ("{{ messages | tojson(indent=[]) }}", "tojson: indent is []"),
        ("{{ strftime_now('%Q!') }}", "is not a format of strftime"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}", "fuel"),
    ] {
        let error = match ChatTemplate::new(source, []) {
            Ok(template) => template.render(&[json!({"role": "user", "content": "Hi"})], false).unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(error, ChatError::Template(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{source}: {error}");
    }
    // Of a macro, too, it is the template's own message.
    let error = render("{% macro f() %}{{ raise_exception('not so') }}{% endmacro %}{{ f() }}").unwrap_err();
    assert_eq!(error.to_string(), "the chat template refuses the conversation: not so");
    let year = render("{{ strftime_now('%Y') }}").unwrap();
    assert!(year.len() == 4 && year.parse::<u32>().unwrap() > 2000, "{year}");
}

#[test]
fn templates_and_special_tokens_are_read_from_the_files_of_either_generation() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let load = || ChatTemplate::load(&folder.path().to_string_lossy(), &Resources::local());
    let text = || load().unwrap().0.unwrap().render(&[json!({"role": "user", "content": "Hi"})], true).unwrap();
    assert!(load().unwrap().0.is_none());
    let put_config = |template: Value| {
        let config = json!({
            "bos_token": {"content": "<b>", "special": true}, "eos_token": "<e>", "pad_token": null,
            "extra_special_tokens": {"image_token": "<i>"}, "chat_template": template
        });
        put("tokenizer_config.json", &config.to_string());
    };
    put_config(json!("{{ bos_token }}{{ eos_token }}{{ image_token }}{{ pad_token }}{{ unk_token }}"));
    put("special_tokens_map.json", r#"{"eos_token": "<other>", "unk_token": {"content": "<u>"}}"#);
    assert_eq!(text(), "<b><e><i><u>");
    put_config(json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d{{ eos_token }}"}]));
    assert_eq!(text(), "d<e>");
    put_config(json!([{"name": "tool_use", "template": "t"}]));
    let error = load().unwrap_err().to_string();
    assert!(error.contains("has the templates tool_use, and none is called 'default'"), "{error}");
    put_config(json!(3));
    assert!(load().unwrap_err().to_string().contains("a text or a list of named ones is expected"));
    put("chat_template.jinja", "file {{ add_generation_prompt }}{{ bos_token }}");
    assert_eq!(text(), "file True<b>");
    assert_eq!(load().unwrap().1.len(), 3);
    put("chat_template.jinja", "{% for %}");
    assert!(load().unwrap_err().to_string().contains("chat_template.jinja: chat template: "));
}

#[test]
fn a_rendered_text_has_the_special_tokens_that_it_writes_and_no_others() {
    let Some(folder) = reference("llama") else { return };
    let tokenizer = Tokenizer::load(&folder.to_string_lossy(), &Resources::local()).unwrap().0;
    let with = ChatTemplate::encode(&tokenizer, "<s>Hi").unwrap();
    let without = ChatTemplate::encode(&tokenizer, "Hi").unwrap();
    assert_eq!(tokenizer.prefix(), [1]);
    assert_eq!(with[0], 1);
    assert!(with[1] != 1 && without[0] != 1, "{with:?} {without:?}");
}
