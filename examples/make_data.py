"""Writes the sample corpus below examples/data/: made-up notes from a mill, in eight languages.

    python examples/make_data.py            # needs pyarrow, see benches/peers/requirements.txt

The same program gives the same rows: it has its own random numbers and reads nothing. All sentences were written for
this file and are dedicated to the public domain (CC0-1.0), as is everything that comes out of it.

- data/corpus/part-0000{0..2}.parquet: 2,000 documents with id, text, lang and topic
- data/corpus.jsonl.gz: 200 of them as JSON lines
- data/terms.csv: a term list for the blocklist operator (keyword, pos_ratio, is_relevant): pests of a granary. About one
  document in eight reports pests; pos_ratio is the share of such documents among those that contain the keyword.
"""

import csv
import gzip
import io
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

DOCUMENTS = 2000
PARTS = 3
DATA = pathlib.Path(__file__).parent / "data"


class Numbers:
    """A linear congruential generator (Knuth's MMIX constants), so that no library's version changes the corpus."""

    def __init__(self, seed):
        self.state = seed

    def below(self, limit):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % limit

    def pick(self, items):
        return items[self.below(len(items))]


# For each language: what fills the gaps of its sentences, titles, sentences of everyday work, sentences about pests.
LANGUAGES = {
    "en": {
        "share": 55,
        "grain": ["wheat", "rye", "barley", "oats", "spelt", "buckwheat", "maize", "millet"],
        "place": ["the upper barn", "the stone floor", "the river mill", "the north silo", "the drying loft", "the market hall"],
        "person": ["the miller", "my aunt", "the apprentice", "our neighbour", "the baker", "the carter"],
        "titles": ["Notes on {grain}", "A day at {place}", "How we grind {grain}", "Letter to {person}", "Bread with {grain}"],
        "work": [
            "We ground {n} sacks of {grain} before noon and swept {place} twice.",
            "{Person} says that {grain} wants a slower stone than most people think.",
            "If the flour feels warm between the fingers, the stones run too close.",
            "The water stood {n} centimetres higher than last week, so the wheel turned without help.",
            "For one loaf take {n} grams of {grain} flour, a spoon of salt and patience.",
            "Let the dough rest overnight; it rises better in {place} than beside the oven.",
            "In {place} the new belt runs quietly, and the old one became a swing for the children.",
            "{Person} brought a sieve of horsehair that is finer than anything we can buy.",
            "The price of {grain} fell again, yet nobody at the market looked surprised.",
            "A stone is dressed with a pick: the furrows first, then the land between them.",
            "Bran goes to the hens, middlings to the kitchen, and the white flour to town.",
            "We measured the moisture of {n} samples; all but one were dry enough to store.",
            "When the wind is from the east, {place} smells of toasted {grain}.",
            "The ledger shows {n} customers this month, most of them with a single sack.",
            "{Person} keeps a jar of sourdough that is older than the roof.",
            "Porridge of {grain} needs four parts of water and twenty minutes of stirring.",
            "The bolting cloth tore near {place}, and we mended it with silk thread.",
            "Count the turns of the runner stone, not the minutes on the clock.",
            "At dusk {person} closes the sluice and the whole house falls silent.",
            "Good {grain} rustles like dry rain when it runs through the hopper.",
        ],
        "pests": [
            "Under the boards of {place} I found a grain weevil, and then {n} more.",
            "A flour moth flew up when {person} opened the sack of {grain}.",
            "The mites had turned the {grain} grey, so the whole bin went to compost.",
            "{Person} set {n} pheromone traps, and the flour moth count fell within a week.",
            "The granary smelled of mildew; a saw-toothed beetle sat on the scoop.",
            "Cold air for ten days ends any grain weevil without a drop of poison.",
            "We heat {place} once a year, because no beetle outlives a day at sixty degrees.",
        ],
    },
    "de": {
        "share": 12,
        "grain": ["Weizen", "Roggen", "Gerste", "Hafer", "Dinkel"],
        "place": ["der Scheune", "der Wassermühle", "dem Trockenboden", "dem Speicher"],
        "person": ["der Müller", "die Bäckerin", "mein Onkel", "der Lehrling"],
        "titles": ["Aus dem Mühlenbuch", "Brot mit {grain}", "Ein Tag in {place}"],
        "work": [
            "Heute haben wir {n} Säcke {grain} gemahlen und danach die Steine geschärft.",
            "{Person} meint, dass {grain} langsamer laufen muss als im letzten Jahr.",
            "In {place} liegt der neue Riemen, leise und ein wenig zu straff.",
            "Für ein Brot nimmt man {n} Gramm Mehl, einen Löffel Salz und viel Geduld.",
            "Das Wasser steht hoch, das Rad dreht sich von selbst.",
            "Wer Kleie wegwirft, der hat keine Hühner.",
            "Am Abend schließt {person} das Wehr, und das Haus wird still.",
            "Gutes Mehl knirscht im Schnee, sagt man bei uns.",
        ],
        "pests": [
            "Unter den Dielen saß ein Kornkäfer, und bald fanden wir {n} weitere.",
            "Eine Mehlmotte flog auf, als {person} den Sack öffnete.",
            "Kälte vertreibt den Kornkäfer besser als jedes Mittel.",
            "Die Mehlmotte mag keinen Durchzug, also bleibt das Fenster offen.",
        ],
    },
    "fr": {
        "share": 8,
        "grain": ["blé", "seigle", "orge", "avoine", "sarrasin"],
        "place": ["le grenier", "le moulin à eau", "la grange", "la boulangerie"],
        "person": ["le meunier", "la boulangère", "mon cousin", "la voisine"],
        "titles": ["Carnet du moulin", "Une journée au moulin", "Le pain du jour ({grain})"],
        "work": [
            "Ce matin, {n} sacs ({grain}) sont passés sous la meule.",
            "{Person} préfère une farine grise, qui garde le goût du champ.",
            "Dans {place}, la courroie neuve ne fait presque plus de bruit.",
            "Pour une miche, il faut {n} grammes de farine, du sel et une nuit de repos.",
            "L'eau est haute, la roue tourne sans effort.",
            "Le son va aux poules, la fleur de farine à la ville.",
            "Le soir, {person} ferme la vanne et tout se tait.",
        ],
        "pests": [
            "Un charançon marchait sur la pelle ; on en a compté {n} dans {place}.",
            "La mite alimentaire s'est envolée du sac ({grain}).",
            "Le froid chasse le charançon mieux que tout le reste.",
        ],
    },
    "es": {
        "share": 8,
        "grain": ["trigo", "centeno", "cebada", "avena", "maíz"],
        "place": ["el granero", "el molino", "la bodega", "el secadero"],
        "person": ["el molinero", "la panadera", "mi abuelo", "la vecina"],
        "titles": ["Apuntes del molino", "Pan de {grain}", "Un día en {place}"],
        "work": [
            "Hoy molimos {n} sacos de {grain} antes del mediodía.",
            "{Person} dice que la piedra habla y que solo hay que escuchar.",
            "En {place} huele a grano tostado cuando sopla el viento del este.",
            "Para una hogaza hacen falta {n} gramos de harina, sal y paciencia.",
            "El agua viene alta y la rueda gira sola.",
            "Con el salvado comen las gallinas, con la harina comemos todos.",
            "Al anochecer {person} cierra la compuerta y la casa calla.",
        ],
        "pests": [
            "Debajo de las tablas apareció un gorgojo, y luego {n} más.",
            "La polilla de la harina salió volando del saco de {grain}.",
            "El gorgojo no soporta diez días de frío.",
        ],
    },
    "ru": {
        "share": 5,
        "grain": ["пшеницы", "ржи", "ячменя", "овса", "гречихи"],
        "place": ["амбаре", "мельнице", "сушильне"],
        "person": ["мельник", "бабушка", "сосед", "ученик"],
        "titles": ["Записки с мельницы", "Хлеб из {grain}"],
        "work": [
            "Сегодня мы смололи {n} мешков {grain} и подмели пол.",
            "{Person} говорит, что жёрнов надо слушать, а не торопить.",
            "На одну буханку нужно {n} граммов муки, соль и терпение.",
            "Вода стоит высоко, и колесо крутится само.",
            "Отруби достаются курам, а белая мука едет в город.",
            "Вечером {person} закрывает шлюз, и дом затихает.",
        ],
        "pests": [
            "Под досками нашёлся амбарный долгоносик, а потом ещё {n}.",
            "Мучная моль вылетела из мешка, и {person} только вздохнул.",
            "Мороз прогоняет амбарный долгоносик лучше любого средства.",
        ],
    },
    "ja": {
        "share": 5,
        "grain": ["小麦", "大麦", "そば", "米", "きび"],
        "place": ["納屋", "水車小屋", "乾燥室"],
        "person": ["粉屋", "祖母", "隣の人", "見習い"],
        "titles": ["水車小屋の日記", "{grain}のパン"],
        "work": [
            "今日は{grain}を{n}袋ひき、床を二度掃いた。",
            "{person}は、石の音を聞けば粉の細かさがわかると言う。",
            "パン一つに粉を{n}グラム、塩を少し、そして一晩の休み。",
            "川の水が高く、車はひとりでに回る。",
            "ふすまは鶏に、白い粉は町へ。",
            "{place}には炒った{grain}の香りがする。",
        ],
        "pests": [
            "{place}の板の下にコクゾウムシがいた。あとで{n}匹も見つかった。",
            "袋を開けるとメイガが飛び出した。",
            "寒さに十日あてれば、コクゾウムシはいなくなる。",
        ],
    },
    "zh": {
        "share": 5,
        "grain": ["小麦", "大麦", "荞麦", "玉米", "小米"],
        "place": ["谷仓", "水磨坊", "晒场"],
        "person": ["磨坊主", "奶奶", "邻居", "学徒"],
        "titles": ["磨坊笔记", "{grain}面包"],
        "work": [
            "今天我们磨了{n}袋{grain},又把地扫了两遍。",
            "{person}说,听石磨的声音就知道面粉粗细。",
            "做一个面包要{n}克面粉、一勺盐和一夜的耐心。",
            "河水涨了,水轮自己转起来。",
            "麸皮喂鸡,白面送进城里。",
            "东风一吹,{place}里都是炒{grain}的香味。",
        ],
        "pests": [
            "在{place}的木板下发现了一只谷象,后来又找到{n}只。",
            "打开袋子,一只粉蛾飞了出来。",
            "冷风吹上十天,谷象就不见了。",
        ],
    },
    "ar": {
        "share": 2,
        "grain": ["القمح", "الشعير", "الذرة", "الشوفان"],
        "place": ["المخزن", "الطاحونة", "السوق"],
        "person": ["الطحان", "الجدة", "الجار"],
        "titles": ["دفتر الطاحونة", "خبز {grain}"],
        "work": [
            "طحنا اليوم {n} كيسا من {grain} قبل الظهر.",
            "يقول {person} إن صوت الحجر يكشف نعومة الدقيق.",
            "للرغيف الواحد {n} غراما من الدقيق وقليل من الملح.",
            "ارتفع ماء النهر فدارت العجلة وحدها.",
            "في {place} رائحة {grain} المحمص.",
        ],
        "pests": [
            "وجدنا سوسة الحبوب تحت الألواح ثم {n} غيرها.",
            "البرد عشرة أيام يطرد سوسة الحبوب.",
        ],
    },
}

# (keyword, is_relevant): some belong to everyday work as well, and a reader of the list has marked them.
KEYWORDS = [
    ("grain weevil", True), ("flour moth", True), ("saw-toothed beetle", True), ("beetle", True), ("mites", True),
    ("mildew", True), ("pheromone", True), ("traps", True), ("compost", True), ("poison", True), ("granary", True),
    ("under the boards", True), ("cold air", True), ("sack", False), ("sieve", False), ("hens", False), ("hopper", True),
    ("barn", True), ("stone", True), ("oven", False), ("Kornkäfer", True), ("Mehlmotte", True), ("Dielen", True),
    ("charançon", True), ("mite alimentaire", True), ("gorgojo", True), ("polilla", True), ("tablas", True),
    ("долгоносик", True), ("моль", True), ("コクゾウムシ", True), ("メイガ", True), ("谷象", True), ("粉蛾", True),
    ("سوسة الحبوب", True), ("الألواح", True), ("windmill sails", True),
]  # fmt: skip


def fill(sentence, language, numbers):
    person = numbers.pick(language["person"])
    return sentence.format(
        grain=numbers.pick(language["grain"]),
        place=numbers.pick(language["place"]),
        person=person,
        Person=person[:1].upper() + person[1:],
        n=2 + numbers.below(97),
    )


def document(number, numbers):
    ticket = numbers.below(sum(language["share"] for language in LANGUAGES.values()))
    for lang, language in LANGUAGES.items():
        ticket -= language["share"]
        if ticket < 0:
            break
    pests = numbers.below(8) == 0
    # Most documents are short, a few are long.
    sentences = [3, 4, 5, 6, 8, 10, 12, 16, 24, 60][numbers.below(10)] if numbers.below(4) else 2 + numbers.below(4)
    body = [fill(numbers.pick(language["work"]), language, numbers) for _ in range(sentences)]
    if pests:
        for _ in range(2 + numbers.below(3)):
            body.insert(numbers.below(len(body) + 1), fill(numbers.pick(language["pests"]), language, numbers))
    elif numbers.below(40) == 0:
        # One mention in passing: what a limit of two distinct terms is for.
        body.append(fill(numbers.pick(language["pests"]), language, numbers))
    gap = "" if lang in ("ja", "zh") else " "
    paragraphs = [gap.join(body[start : start + 5]) for start in range(0, len(body), 5)]
    title = fill(numbers.pick(language["titles"]), language, numbers)
    return {
        "id": f"mill-{number:05}",
        "text": title + "\n\n" + "\n\n".join(paragraphs) + "\n",
        "lang": lang,
        "topic": "pests" if pests else "work",
    }


def lower_ascii(text):
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def term_rows(documents):
    for keyword, relevant in KEYWORDS:
        having = [row["topic"] == "pests" for row in documents if lower_ascii(keyword) in lower_ascii(row["text"])]
        # Nothing is known of a keyword that no document contains.
        yield keyword, f"{sum(having) / len(having):.3f}" if having else "0.000", "true" if relevant else "false"


def main():
    numbers = Numbers(20)
    documents = [document(number, numbers) for number in range(DOCUMENTS)]
    # A few texts come twice, under another id, as in every corpus.
    for number in range(150, DOCUMENTS, 150):
        documents[number]["text"] = documents[number - 75]["text"]
        documents[number]["lang"] = documents[number - 75]["lang"]
        documents[number]["topic"] = documents[number - 75]["topic"]

    (DATA / "corpus").mkdir(parents=True, exist_ok=True)
    schema = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("id", "text", "lang", "topic")])
    size = -(-DOCUMENTS // PARTS)
    for part in range(PARTS):
        table = pa.Table.from_pylist(documents[part * size : (part + 1) * size], schema=schema)
        # Two row groups in each file, so that even this corpus has several splits.
        pq.write_table(
            table, DATA / "corpus" / f"part-{part:05}.parquet", compression="zstd", compression_level=9, row_group_size=-(-size // 2)
        )

    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in documents[:200])
    with open(DATA / "corpus.jsonl.gz", "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(lines.encode())

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["keyword", "pos_ratio", "is_relevant"])
    writer.writerows(term_rows(documents))
    (DATA / "terms.csv").write_text(table.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    main()
