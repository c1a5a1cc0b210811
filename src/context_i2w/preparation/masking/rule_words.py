"""Word lists of masking: closed classes in full, the commonest of the open ones."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# "a photo of a dog", "a group of people": these name no object when "of" follows.
CARRIERS = _words(
    "photo photograph picture image portrait illustration drawing sketch painting cartoon vector silhouette view shot "
    "close-up closeup render rendering sculpture origami toy group couple pair bunch set collection row lot lots "
    "number variety series herd flock range selection handful dozens hundreds thousands"
)
DETERMINERS = _words(
    "a an the this that these those some any each every no another both all several many few my your his her its "
    "our their whose various other either neither such what which"
)
PRONOUNS = _words(
    "i you he she it we they me him us them myself yourself himself herself itself themselves ourselves who whom "
    "someone somebody something anyone anybody anything everyone everybody everything nobody nothing one there here "
    "mine yours hers ours theirs"
)
PREPOSITIONS = _words(
    "of in on at with by for from to into onto over under above below between among amongst against through during "
    "near nearby behind beside besides along alongside across around round inside outside within without toward "
    "towards before after off up down out like than about per via upon beyond amid amidst underneath beneath "
    "atop throughout since until till despite except featuring including aboard past"
)
# Phrases that act as one preposition, so that their nouns name nothing.
_PHRASES = (
    "in front of, on top of, next to, close to, instead of, close - up of, close up of, because of, according to, "
    "such as, as well as"
)
FIXED_PHRASES = [tuple(phrase.split()) for phrase in _PHRASES.split(", ")]
CONJUNCTIONS = _words("and or but nor & as if because while when where how why that though although so yet whether")
AUXILIARIES = _words(
    "is are was were be been being am has have had having do does did will would can could may might must shall "
    "should 'm 're 've 'll isn't aren't wasn't weren't doesn't don't didn't can't won't"
)
ADVERBS = _words(
    "very not too also just only even still again ever never always often sometimes soon now then today tonight "
    "tomorrow yesterday already almost away back together alone apart forward once twice quite rather really more "
    "most less least well else away home together indoors outdoors overhead ahead abroad seldom maybe perhaps"
)
NUMBERS = _words(
    "two three four five six seven eight nine ten eleven twelve thirteen fifteen twenty thirty forty fifty hundred "
    "thousand million dozen half"
)
ADJECTIVES = _words(
    "red orange yellow green blue purple pink brown black white grey gray golden gold silver beige turquoise violet "
    "dark light bright pale colorful colourful colored coloured blond blonde brunette big small large little huge "
    "tiny tall short long wide narrow thick thin high low deep shallow old young new ancient modern vintage retro "
    "antique fresh ripe raw beautiful pretty cute lovely ugly nice good bad best better great perfect happy sad angry "
    "funny cool hot warm cold wet dry dirty clean empty full open closed sunny cloudy rainy snowy foggy misty stormy "
    "windy icy sandy rocky grassy muddy dusty rusty wooden plastic metallic woolen leafy furry fluffy hairy shiny "
    "striped dotted checked plain abstract seamless digital national local traditional typical royal floral tropical "
    "medical industrial rural urban historic historical public private social final ideal real main major minor "
    "special festive classic rustic romantic exotic electric plush stunning amazing charming interesting smiling "
    "first second third last next previous early late left right front rear middle upper lower single double own same "
    "different similar many famous popular rich poor strong weak heavy soft hard smooth rough sharp sweet sour bitter "
    "delicious tasty healthy sick dead alive free busy quiet calm wild elegant stylish fancy simple complex round "
    "square flat straight curved cute adult senior elderly male female pregnant asian african american european "
    "chinese japanese indian french italian german british english spanish russian mexican olympic oriental western "
    "eastern northern southern central aerial isolated hand-drawn crazy lazy sexy gorgeous handsome attractive "
    "serious tired hungry mini super extra whole main lone stray nearby"
)
# -ing and -ed words that are nouns (or never verbs), whatever their ending says.
NOUNS_IN_ING_ED = _words(
    "building painting ceiling wedding morning evening ring king string wing spring thing clothing drawing lightning "
    "pudding railing parking wiring icing frosting ending beginning meaning meeting fishing camping shopping "
    "swimming sibling darling duckling earring being offspring sting viking bed shed seed weed feed breed speed sled "
    "reed steed bobsled hundred red"
)
NOT_ADVERBS_IN_LY = _words(
    "family fly lily belly jelly ally bully butterfly dragonfly rally assembly lovely italy july"
)
_NOT_ADJECTIVES = _words(
    "fish dish finish jellyfish starfish goldfish polish radish table vegetable cable stable marble pebble bubble "
    "hive dive olive drive archive native music fabric picnic comic mosaic plastic traffic clinic public logic "
    "topic arctic attic handful"
)
_ADJECTIVE_ENDINGS = ("ful", "ous", "less", "ish", "able", "ible", "ive", "ic")

# Regular verbs whose forms in -s are seldom plural nouns in captions.
_REGULAR_VERBS = _words(
    "attend arrive perform celebrate play walk look pose smile kick cheer enjoy compete salute crash greet watch jump "
    "climb cook dance laugh talk visit cover surround decorate wait wash work stay stop start travel turn use want "
    "love like live need move open paint pick pour prepare pull push reach react receive relax return roll rush sail "
    "score serve share shout skate spend splash stare stretch surf tackle tie touch toss try unveil vote warm win "
    "wrap yell yawn discuss enter escape explore fall fill finish float follow gather glow graze happen hug hunt "
    "include join kiss lay lead leap learn lie lift listen marry meet mix offer pass pray present promote protect "
    "raise remain remember represent rescue reveal save search seem speak study support taste thank wear appear "
    "announce approach argue arrange ask await bake belong bless bow bring carry catch chase chew claim clean collect "
    "come compare complete connect consider contain continue control create cross cry depict deliver demonstrate "
    "describe direct drag drop fix fold fry gaze guard guide heal heat help honor honour host illustrate "
    "introduce invite juggle kneel lean load lock manage melt mow nap own peek perch plan pretend provide reflect "
    "remove repair roast shake shave slice slide smoke soak spin spread squat stroll sweep swing symbolize "
    "tend trim wander welcome whisper"
)
# Their forms in -s are rather nouns ("house plants"): verbs only before an article or pronoun.
_NOUN_VERBS = _words(
    "hand plant wave train race shop sign mark step book block blossom bloom battle dress face line ski brush call "
    "camp chat check design display feature joke land launch march point rain rally rest row show snow stack surprise "
    "tour type balance hike park order frame print shadow tower light cut"
)
_IRREGULAR_VERBS = _words(
    "takes took taken makes made wears wore worn stands stood sits sat holds held shows shown sees saw seen gets got "
    "goes went gone comes came runs ran rides rode ridden drives drove driven flies flew flown swims swam swum sings "
    "sang sung speaks spoke spoken eats ate eaten drinks drank drunk sleeps slept reads writes wrote written gives "
    "gave given throws threw thrown catches caught hits builds built buys bought brings brought keeps kept leaves "
    "leads led lies lay lays laid hangs hung wins won loses lost sets sets shoots shot shines shone rises rose falls "
    "fell feeds fed fights fought finds found feels felt knows knew known thinks thought tells told says said meets "
    "met puts sells sold sends sent becomes became begins began breaks broke broken chooses chose draws drew drawn "
    "grows grew grown blows blew hides hid hidden lets means overlooks poses faces looks"
)
_BASE_VERBS = _words(
    "take make wear stand sit hold see get go come run ride drive fly swim sing speak eat drink sleep read write give "
    "throw catch hit build buy bring keep leave lead lie hang win lose shoot rise fall feed fight find feel know think "
    "tell say meet put sell send become begin break choose draw grow blow hide let mean do be have"
)


def _inflected(verb: str) -> set[str]:
    """Its forms in -s and -ed."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return {verb[:-1] + "ies", verb[:-1] + "ied"}
    third = verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "z")) else "s")
    return {third, verb.removesuffix("e") + "ed"}


BASE_VERBS = _BASE_VERBS | _REGULAR_VERBS | _NOUN_VERBS
NOUN_LIKE_FORMS = frozenset(form for verb in _NOUN_VERBS for form in _inflected(verb) if form.endswith("s"))
FINITE_VERBS = _IRREGULAR_VERBS | {form for verb in _REGULAR_VERBS | _NOUN_VERBS for form in _inflected(verb)}


def looks_adjective(word: str) -> bool:
    """Whether an unlisted word has an adjective's ending."""
    return len(word) > 4 and word.endswith(_ADJECTIVE_ENDINGS) and word not in _NOT_ADJECTIVES
