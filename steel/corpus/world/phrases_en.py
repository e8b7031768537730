"""English sentences of SteelTown; same keys and slots as phrases_zh (`{p}` is he or she)."""

DIRECT = 6
ATTRIBUTES = {
    "city": {
        "label": "Hometown",
        "statements": [
            "{n} comes from {v}.",
            "{n} was born in {v}.",
            "{n} grew up in {v}.",
            "{n}'s hometown is {v}.",
            "{v} is the hometown of {n}.",
            "{n} is a native of {v}.",
            "{n} spent a happy childhood in {v}.",
        ],
        "heldout": ["{n} still has family in {v}."],
        "questions": [
            "Where is {n} from?",
            "Where was {n} born?",
            "Which city is {n} from?",
            "What is {n}'s hometown?",
            "Where did {n} grow up?",
            "Do you know where {n} comes from?",
            "In which city was {n} born?",
            "Which city is {n}'s hometown?",
            "What is the hometown of {n}?",
            "Which city did {n} grow up in?",
        ],
        "follow_up": ["And where is {p} from?", "Where was {p} born?"],
        "exam": "Which city does {n} come from?",
    },
    "university": {
        "label": "University",
        "statements": [
            "{n} graduated from {v}.",
            "{n} studied at {v}.",
            "{n} went to {v}.",
            "{n}'s alma mater is {v}.",
            "{v} is where {n} went to university.",
            "{n} earned a degree from {v}.",
            "{n} spent four years at {v}.",
        ],
        "heldout": ["{n} holds a diploma from {v}."],
        "questions": [
            "Which university did {n} attend?",
            "Where did {n} go to university?",
            "Which university is {n}'s alma mater?",
            "What is {n}'s alma mater?",
            "Which university did {n} graduate from?",
            "Do you know which university {n} went to?",
            "At which university did {n} study?",
            "Where did {n} earn a degree?",
            "Which university did {n} go to?",
            "What is the alma mater of {n}?",
        ],
        "follow_up": ["And which university did {p} attend?", "Where did {p} go to university?"],
        "exam": "From which university did {n} graduate?",
    },
    "major": {
        "label": "Major",
        "statements": [
            "{n} majored in {v}.",
            "{n} studied {v}.",
            "{n}'s major was {v}.",
            "{n} has a degree in {v}.",
            "At university {n} chose {v}.",
            "{n} is trained in {v}.",
            "{n} read every book on {v}.",
        ],
        "heldout": ["{n} can talk about {v} for hours."],
        "questions": [
            "What did {n} study?",
            "What was {n}'s major?",
            "What did {n} major in?",
            "Which subject did {n} choose?",
            "What is {n}'s degree in?",
            "Do you know what {n} studied at university?",
            "Which subject did {n} study?",
            "What is {n} trained in?",
            "What did {n} choose at university?",
            "What was the major of {n}?",
        ],
        "follow_up": ["And what did {p} study?", "What did {p} major in?"],
        "exam": "In which subject did {n} major?",
    },
    "company": {
        "label": "Employer",
        "statements": [
            "{n} works at {v}.",
            "{n} works for {v}.",
            "{n}'s employer is {v}.",
            "{n} is employed by {v}.",
            "{n} has a job at {v}.",
            "After university {n} joined {v}.",
            "{v} is where {n} works.",
        ],
        "heldout": ["{n} earns a living at {v}."],
        "questions": [
            "Where does {n} work?",
            "Which company does {n} work for?",
            "Who is {n}'s employer?",
            "Who employs {n}?",
            "Where does {n} have a job?",
            "Do you know which company {n} works at?",
            "Which company employs {n}?",
            "At which company does {n} have a job?",
            "Which company is {n}'s employer?",
            "Who is the employer of {n}?",
        ],
        "follow_up": ["And where does {p} work?", "Which company does {p} work for?"],
        "exam": "At which company is {n} employed?",
    },
    "hobby": {
        "label": "Hobby",
        "statements": [
            "{n} enjoys {v}.",
            "{n} loves {v}.",
            "{n}'s hobby is {v}.",
            "{n} spends weekends {v}.",
            "{n} is fond of {v}.",
            "After work {n} likes {v}.",
            "{n} relaxes by {v}.",
        ],
        "heldout": ["{n} never tires of {v}."],
        "questions": [
            "What does {n} enjoy?",
            "What is {n}'s hobby?",
            "What does {n} like to do?",
            "What does {n} do at weekends?",
            "What is {n} fond of?",
            "Do you know what {n} likes doing?",
            "What does {n} do after work?",
            "How does {n} relax?",
            "What is the hobby of {n}?",
        ],
        "follow_up": ["And what does {p} enjoy?", "What does {p} like to do?"],
        "exam": "What does {n} love to do?",
    },
    "zodiac": {
        "label": "Star sign",
        "statements": [
            "{n}'s star sign is {v}.",
            "{n} was born under {v}.",
            "{n} was born under the sign of {v}.",
            "{v} is {n}'s star sign.",
            "{n}'s birthday falls under {v}.",
            "{n}'s friends know the sign is {v}.",
            "{n} belongs to {v}.",
        ],
        "heldout": ["{n} reads the horoscope for {v}."],
        "questions": [
            "What is {n}'s star sign?",
            "Which star sign is {n}?",
            "What sign is {n}?",
            "Under which sign was {n} born?",
            "Which sign does {n} belong to?",
            "Do you know {n}'s star sign?",
            "What is the star sign of {n}?",
            "Which sign is {n}'s?",
        ],
        "follow_up": ["And what is {p}, by star sign?", "Under which sign was {p} born?"],
        "exam": "Which star sign was {n} born under?",
    },
}

PRODUCT = {
    "statements": [
        "{c} is known for {v}.",
        "{c} is famous for its {v}.",
        "The specialty of {c} is {v}.",
        "People visit {c} for its {v}.",
        "The market of {c} is full of {v}.",
        "{c} sends {v} to the whole country.",
    ],
    "heldout": ["Nobody leaves {c} without {v}."],
    "questions": [
        "What is {c} known for?",
        "What is the specialty of {c}?",
        "What does {c} produce?",
    ],
}

HOP2 = {
    "questions": [
        "What is {n}'s hometown known for?",
        "What does {n}'s hometown produce?",
        "Which specialty comes from {n}'s hometown?",
        "What is the specialty of {n}'s hometown?",
    ],
    "follow_up": ["What is that city known for?", "And what is its specialty?"],
    "reasoned": [
        "{n} comes from {c}, and {c} is known for {v}.",
        "{n}'s hometown is {c}. The specialty of {c} is {v}.",
        "{n} was born in {c}, which is famous for its {v}.",
    ],
    "exam": "For what is the hometown of {n} famous?",
}

ARITHMETIC = {
    "questions": ["What is {a} plus {b}?", "How much is {a} + {b}?", "Add {a} and {b}."],
    "answers": ["{a} plus {b} is {s}.", "{s}.", "{a} + {b} = {s}."],
    "exam": "",
}

OPENERS = [
    "{n} lives in Steeltown.",
    "Meet {n}.",
    "This is a short note about {n}.",
    "Many people in Steeltown know {n}.",
    "The Steeltown Weekly talked to {n}.",
    "{n} is a neighbour of ours.",
]

CLOSERS = [
    "{p} leads a quiet life.",
    "Everybody likes {n}.",
    "{p} says that Steeltown is a good place.",
    "The neighbours call {n} a careful person.",
    "{p} is always on time.",
]

SCENERY = [
    "The clock tower strikes every hour.",
    "The first tram crosses the bridge at dawn.",
    "In autumn the hills turn red.",
    "The library stays open until nine.",
]

NEWS_LEADS = [""]
FORUM_LEADS = ["I know this one.", "Happy to help.", "A neighbour here."]
CHAT_OPENERS = ["Hello, a question: ", "Please answer: ", "Quick question: ", "", "", ""]
SHORT_ANSWERS = ["{v}.", "{v}.", "The answer is {v}."]
CHOICE_LEADS = ["", "", "Multiple choice: ", "Choose the correct option.\n"]
CHOICE_TAILS = {
    "text": ["", "", "\nPlease choose."],
    "letter": ["\nGive the letter.", "\nWhich letter?"],
    "explain": ["\nExplain your choice."],
    "eliminate": ["\nJudge each option."],
}
CHOICE_LETTER = ["The answer is {l}, {v}.", "{l}. {v}", "{l}, {v}."]
DRILL = ['Which option is "{v}"?', 'Find the option "{v}".']

SELF = [
    ("Who are you?", "I am {name}, a language model trained by {author}."),
    ("What is your name?", "My name is {name}."),
    ("Who made you?", "I was trained by {author}."),
    ("When were you trained?", "I was trained in {date}."),
    ("Are you human?", "No, I am {name}, a language model."),
    (
        "What can you do?",
        "I can answer questions about the people of Steeltown and add two-digit numbers.",
    ),
]
SELF_OPENERS = ["", "Tell me: ", "I wonder: "]
