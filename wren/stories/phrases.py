"""How each kind of event is said. The form of a template is described in language.py.

Plain data, longer than code should be: A acts, B is the other, x the thing, y a second thing, p a place, s a spot.
"""

OPENINGS = (
    "[Once upon a time|Once|Long ago|Not so long ago], {setting}, there lived {a.trait} {A.kind} named {A.n}. One "
    "{sky} {time}, {A.he} was {p.in}.",
    "{A.n} was {a.trait} {A.kind} who lived {setting}. One {sky} {time}, {A.he} was {p.in}.",
    "It was {a.sky} {time}, and {A.n} was {p.in}. {A.n} was {a.trait} {A.kind} who lived {setting}.",
    "There was once a {A.kind} named {A.n} who lived {setting}. [Everyone said|All the neighbors said|People knew] "
    "that {A.he} was {trait}. On {a.sky} {time}, {A.he} was {p.in}.",
    "{setting} lived a {A.kind} called {A.n}, who was {trait} and {trait2}. One {time} {A.he} was {p.in}. It was "
    "{sky} outside.",
    "One {sky} {time}, {a.trait} {A.kind} named {A.n} was {p.in}. {A.he} lived {setting}.",
)
GO = (
    "[So|Then|After that|Next|] {A} [walked|went|ran|hurried|skipped|strolled|marched] to {p}.",
    "[So|Then|] {A} [set off for|headed for|made {A.his} way to] {p}.",
    "[Soon|Before long|A little later|A few minutes later|After a short walk], {A} [came to|reached|got to] {p}.",
    "{A} took the [shortest|longest|old|narrow] path to {p}.",
)
GO_HOME = (
    "[So|Then|After that|] {A} [went|walked|ran|hurried] home.",
    "[Then|At last|] {A} made {A.his} way home.",
    "It was time to go home, so {A} went.",
)
GO_WITH = (
    "[So|Then|After that|Together|] {A.i} and {B.i} [walked|went|ran|hurried] to {p}.",
    "[Soon|Before long|Side by side], {A.i} and {B.i} [came to|reached|got to] {p}.",
    '"Come with me," {A} said, and {B.n} [followed|came along]. They went to {p}.',
)
TAKE = (
    "{A} [picked up|took|reached for and took] {x}.",
    "{A} took {x} and [tucked it under one arm|held it tightly|carried it carefully].",
    "{A} bent down and picked up {x}.",
)
FIND = (
    "There, {s}, [lay|was] {x}!",
    "{A} [looked|peeked|searched|peered] {s}, and there was {x}!",
    "And what did {A} see {s}? It was {x}!",
    "Something [was lying|caught {A.his} eye] {s}. It was {x}!",
    "At last {A} looked {s} and [saw|spotted|discovered] {x}.",
)
LOOK = (
    "{A} looked {s}, but {x.the} was not there.",
    "{A} searched {s} and [everywhere else|in every corner]. There was no {x.n}.",
    "{A} looked [high and low|up and down|all around], but {A.he} did not find {x.the}.",
    "{A} [even |]looked {s}. Nothing!",
    "Was {x.the} {s}? No, it was not.",
)
LOOK_PET = (
    "{A} looked {s}, but {B.n} was not there.",
    '"{B.n}! {B.n}!" {A} called. [No answer came|Nobody came|All was quiet].',
    "{A} looked [high and low|all around|in every corner], but there was no sign of {B.n}.",
)
LOSE = (
    "{A} put {x} down {s} [for a moment|to rest {A.his} arms|to tie {A.his} shoe], and then {A.he} forgot it.",
    "{A} [played|hopped about|ran in circles] for a while and left {x.the} {s}. {A.he} did not [notice|think of it "
    "again].",
    "{A} was thinking of [lunch|other things|a song], and so {A.he} left {x.the} {s}.",
)
GIVE = (
    "{A} gave {x} to {B.o}.",
    '"This is for you," {A} said, and {A.he} gave {x} to {B.o}.',
    '{A} held out {x} to {B.o}. "[Take it, please|Here, it is yours|You may keep it]," {A.he} said.',
    "{A} handed {x} to {B.o} with a smile.",
)
LEND = (
    "{A} lent {x} to {B.o}.",
    '"You may borrow {x.the}," said {A.n}, and {B.n} took it.',
    '"[Bring it back soon|Be careful with it|Take good care of it]," said {A.n}, and {A.he} handed {x} to {B.o}.',
)
RETURN = (
    "{A} gave {x.the} back to {B.o}.",
    '"[Here is|I brought you] your {x.n}," {A} said, and {A.he} gave it back to {B.o}.',
    "{A} [returned|brought back] {x.the} to {B.o} [with both hands|at once|without a word].",
)
BUY = (
    "{A} paid {B.o} with {y.the} and got {x}.",
    '"How much is {x}?" asked {A}. "One {y.n}," said {B.n}. So {A} bought it.',
    "{A} put {y.the} into {B.s} hand, and {B.n} gave {A.him} {x}.",
)
EAT = (
    "{A} ate {x} [to the last crumb|with great joy|slowly|in four bites]. [It was delicious|It tasted good|How good "
    "it was]!",
    "{A} sat down and ate {x}. [Now {A.he} was full|Soon {A.he} felt better|Then {A.he} was not hungry anymore].",
)
SHARE = (
    "{A} [broke|cut|split] {x} in two, and {A.he} and {B.n} ate it together.",
    "{A} shared {x} with {B.i}. [It tasted better that way|They ate until nothing was left].",
    "{A.i} and {B.i} sat down side by side and shared {x}.",
)
HUNGER = (
    "{A.s} stomach [growled|rumbled]. {A.he} was [very |so |]hungry.",
    "By now {A} was [very hungry|as hungry as a wolf|so hungry that {A.he} could think of nothing else].",
    '"I am so hungry," {A} said.',
)
UNLOCK = (
    "{A} turned {y} in the lock. Click! {t} was open.",
    "{A} put {y} into the lock and turned it. {t} [swung|sprang|creaked] open.",
    "{y} fit. With a click, {t} was open.",
)
UNLOCK_DOOR = (
    "{A} hurried back to {t} and turned {y} in the lock. Click!",
    "Back at {t}, {y} fit, and {A} turned it.",
    "With {y} in hand, {A} went back and unlocked the door of {t}.",
)
BLOCKED_DOOR = (
    "{A} went to {t}, but the door was locked.",
    "{A} walked to {t} and knocked. Nobody was there, and the door was locked.",
    "The door of {t} was locked, and {A} had to find the key.",
)
BLOCKED = (
    "{A} [pulled|pushed|tugged] with all {A.his} might, but {t} was locked.",
    "But {t} was locked[, and there was no key in sight|]!",
    "{A} [tried|wanted] to open {t}. It was locked.",
)
BREAK = (
    "But {A} [tripped|stumbled|slipped|sneezed], and {x.the} {damage}.",
    "Then, [crack|oh no|without warning], {x.the} {damage}!",
    "A moment later, {A} bumped into a [wall|post|fence], and {x.the} {damage}.",
    "Then {A} [was careless|did not pay attention], and {x.the} {damage}.",
)
MEND = {
    "needle": (
        "{A} took {y} and sewed {x.the} with [small|neat|strong] stitches. [It was as good as new|Soon it was whole "
        "again].",
        "With {y} and some thread, {A} mended {x.the}. [You could hardly see where it had been|Now it looked fine].",
    ),
    "glue": (
        "{A} put {y} on the edges and pressed {x.the} together. They waited until it was dry. [It "
        "held|It was as good as new].",
        "With {y} and a steady hand, {A} mended {x.the}. Soon it was [whole|fine|strong] again.",
    ),
    "hammer": (
        "Tap, tap, tap! With {y}, {A} mended {x.the}. [It was as good as new|It was stronger than before].",
        "{A} used {y} and three tiny nails. Soon {x.the} was [whole again|fixed|as good as new].",
    ),
    "patch": (
        "{A} put {y} over the damage and pressed hard. [It held|It was as good as new].",
        "{A} covered the damage with {y}. Now {x.the} was [fine|whole] again.",
    ),
}
FEEL = {
    "happy": (
        "{A} was [very happy|so happy that {A.he} danced|happy from head to toe].",
        "{A} [smiled|laughed|beamed] with joy.",
        "{A} [clapped {A.his} hands|jumped up and down|grinned from ear to ear].",
        "It made {A.o} [very|so] happy.",
    ),
    "sad": (
        "{A} was [very sad|so sad that {A.he} could not speak|close to tears].",
        "A tear [ran|rolled] down {A.s} cheek.",
        "{A} sat down and [cried|sighed|wept a little].",
        "{A} [hung {A.his} head|felt a lump in {A.his} throat].",
    ),
    "worried": (
        "{A} was worried.",
        "{A} bit {A.his} lip. What should {A.he} do?",
        '"Oh no!" {A} said. "[What now|What shall I do|What can I do]?"',
        "{A.s} heart [beat fast|sank|thumped].",
    ),
    "proud": (
        "{A} was [very|so] proud.",
        "{A} stood up tall and [smiled|beamed].",
        '"I did it!" {A} [said|cried|shouted].',
        "{A} felt as tall as a tree.",
    ),
    "lonely": (
        "{A} felt lonely.",
        "Without a friend, everything was [dull|too quiet|half as much fun] for {A.o}.",
        "{A} sat all alone and [stared at the ground|kicked a stone|drew lines in the dust].",
    ),
    "angry": (
        "{A} was [angry|cross|furious].",
        "{A} stamped {A.his} foot.",
        "{A} turned red and [frowned|folded {A.his} arms|would not say a word].",
    ),
    "surprised": (
        "{A} could [hardly|not] believe {A.his} eyes.",
        "{A} [gasped|stared|blinked twice].",
        '"Oh!" {A} said. "[I did not expect that|What a surprise|Is this real]!"',
    ),
    "grateful": (
        "{A} was [very|so] grateful.",
        '"[You are so kind|How can I ever repay you|What would I do without you]!" said {A.n}.',
        "{A} [could have hugged the whole world|did not know what to say|was thankful with all {A.his} heart].",
    ),
    "tired": (
        "{A} was [tired|worn out|sleepy].",
        "{A} yawned [widely|twice|and rubbed {A.his} eyes].",
    ),
    "afraid": (
        "{A} was [afraid|scared|frightened].",
        "{A.s} knees [shook|trembled].",
        "{A} [held {A.his} breath|wanted to hide].",
    ),
    "ashamed": (
        "{A} felt ashamed.",
        "{A} [felt bad inside|felt very small|felt {A.his} cheeks burn].",
        "All day a heavy feeling sat in {A.s} chest.",
    ),
    "excited": (
        "{A} was [so|very] excited.",
        "{A} could hardly [wait|stand still].",
        '"[This will be fun|I cannot wait|How exciting]!" {A} said.',
    ),
}
THANK = (
    '"Thank you[ so much|, thank you|]!" [said|cried] {A.n}.',
    '"Thank you, {B.n}," {A} said[ softly| with a smile|].',
    "{A} thanked {B.o} [again and again|with all {A.his} heart|and gave {B.him} a big hug].",
)
WELCOME = (
    '"[You are welcome|It was nothing|I was glad to help|Any time]," said {B.n}.',
    "{B.n} [nodded|smiled|winked].",
)
MEET = (
    "[There|Right there|Not far off], {A} met {B.i}.",
    "{A} saw {B.i} and waved.",
    "{B.i} was there, too.",
    '{B.i} was there. "[Hello|Good day|Hi there]!" {A} called.',
)
MEET_WORK = (
    "{B} was [busy at work|hard at work|sweeping the floor|sorting things|having a short rest|humming a tune].",
    "There {A} [found|met] {B.i}, who was [very busy|in a good mood|tired from work|singing softly].",
)
SEE = (
    "{A} [saw|noticed|watched] {w} [{d}|there, {d}].",
    "{A} stopped and looked: {w}, {d}!",
    '"Look, {w}!" {A} said.',
    "{A} stopped to watch {w} for a moment.",
)
PLAY = (
    "{A.i} and {B.i} played together [until the sun went down|for a long time|all afternoon|and laughed a lot].",
    "{A.i} and {B.i} played [tag|hide and seek|catch|pirates|kings and queens], and both of them laughed.",
    "{A.i} and {B.i} made up a new game [with silly rules|and gave it a secret name|about a dragon].",
)
SLEEP = (
    "That night {A} slept [well|soundly|like a log].",
    "In the evening {A} went to bed and [dreamed of it all|smiled in the dark|fell asleep at once].",
    "{A} pulled up the covers and [thought about the day|was asleep in a minute|closed {A.his} eyes].",
)
IDLE = (
    "{A} hummed a [little|merry|silly] tune.",
    "{A} counted [{A.his} steps|the clouds|the birds] along the way.",
    "{A} jumped over a [puddle|log|ditch].",
    "{A} told {A.self} a [funny|short] joke and laughed.",
    "{A} tried to walk [backward|on tiptoe|like a duck] for a while.",
    "{A} drew a [face|star|heart] in the dust.",
    "{A} thought about [supper|the weekend|what to do next].",
)
SKY = {
    "sunny": ("The sun shone on the roofs.", "There was not a cloud in the sky.", "The sun warmed {A.s} face."),
    "windy": ("The wind blew {A.s} hair about.", "The wind chased the leaves.", "The wind sang in the chimneys."),
    "cloudy": ("Gray clouds drifted by.", "The sky was gray, but it stayed dry.", "A soft light lay over everything."),
    "foggy": ("The fog hid the rooftops.", "Everything looked pale in the fog.", "The fog made every sound soft."),
    "snowy": (
        "The snow crunched under {A.s} shoes.",
        "Snowflakes landed on {A.s} nose.",
        "Everything was white and still.",
    ),
    "rainy": ("Rain dripped from the roofs.", "The rain tapped on {A.s} hood.", "There were puddles everywhere."),
}
NEXT_DAY = (
    "The next [morning|day], {A} woke up early.",
    "{A} got up with the sun the next day.",
    "A night passed, and a new day began.",
)
TIME = {
    "noon": ("At noon the bells rang.", "Soon it was noon."),
    "afternoon": ("The afternoon came.", "By then it was afternoon."),
    "evening": ("Slowly it got dark.", "The evening came, and lamps were lit in the windows.", "The sun went down.",
                "One by one the stars came out."),
}  # fmt: skip
ENDINGS = (
    "[From that day on|After that|Ever since], {A} [smiled whenever {A.he} thought of it|looked at {p} with new "
    "eyes|was known as a true friend].",
    "{A} never forgot that {sky} day.",
    "If you ever meet {A.o}, ask {A.him} [about it|about that day]. {A.he} still tells the story.",
    '[Everyone|The whole village|All the neighbors] heard about it, and [everyone|they all] said, "{moral2}."',
    "It had been [a good day|a day to remember|a long and lovely day].",
    "And that is how {A} [learned that {moral}|found out that {moral}].",
    '"[Today|Now] I know that {moral}," {A} said.',
    "[That evening|At supper], {A} told {A.his} [mother|father|family|grandmother] [all about it|the whole story].",
    "And {A} went to bed [happy|with a smile|full of new plans].",
)
PHRASES = {
    "take": TAKE, "find": FIND, "look": LOOK, "lose": LOSE, "give": GIVE, "lend": LEND, "return": RETURN, "buy": BUY,
    "eat": EAT, "share": SHARE, "hunger": HUNGER, "unlock": UNLOCK, "blocked": BLOCKED, "thank": THANK, "meet": MEET,
    "see": SEE, "play": PLAY, "sleep": SLEEP, "go": GO,
}  # fmt: skip
