"""Which group a subject belongs to, for the exams whose authors define groups, and for the closed world.

CMMLU: Li et al. 2023, 67 subjects; "China specific" overlaps the other groups, so its questions count twice there.
C-Eval: Huang et al. 2023, 52 subjects; "Hard" is the authors' list of eight STEM subjects, again an overlap.
"""

from __future__ import annotations

from collections.abc import Collection

_CMMLU = {
    "STEM": """anatomy astronomy college_actuarial_science college_engineering_hydrology college_mathematics
        college_medical_statistics computer_science conceptual_physics electrical_engineering elementary_mathematics
        genetics high_school_biology high_school_chemistry high_school_mathematics high_school_physics machine_learning
        virology""",
    "Humanities": """arts chinese_history chinese_literature college_law global_facts international_law jurisprudence
        logical marxist_theory philosophy professional_law world_history world_religions""",
    "Social Science": """ancient_chinese business_ethics chinese_civil_service_exam chinese_food_culture
        chinese_foreign_policy chinese_teacher_qualification college_education economics education elementary_chinese
        ethnology high_school_geography high_school_politics journalism management marketing modern_chinese
        professional_accounting professional_psychology public_relations security_study sociology""",
    "Other": """agronomy chinese_driving_rule clinical_knowledge college_medicine computer_security
        construction_project_management elementary_commonsense elementary_information_and_technology food_science
        human_sexuality legal_and_moral_basis nutrition professional_medicine sports_science
        traditional_chinese_medicine""",
    "China specific": """ancient_chinese chinese_civil_service_exam chinese_driving_rule chinese_food_culture
        chinese_foreign_policy chinese_history chinese_literature chinese_teacher_qualification
        construction_project_management elementary_chinese elementary_commonsense ethnology high_school_politics
        modern_chinese traditional_chinese_medicine""",
}
_CEVAL = {
    "STEM": """advanced_mathematics college_chemistry college_physics college_programming computer_architecture
        computer_network discrete_mathematics electrical_engineer high_school_biology high_school_chemistry
        high_school_mathematics high_school_physics metrology_engineer middle_school_biology middle_school_chemistry
        middle_school_mathematics middle_school_physics operating_system probability_and_statistics
        veterinary_medicine""",
    "Social Science": """business_administration college_economics education_science high_school_geography
        high_school_politics mao_zedong_thought marxism middle_school_geography middle_school_politics
        teacher_qualification""",
    "Humanities": """art_studies chinese_language_and_literature high_school_chinese high_school_history
        ideological_and_moral_cultivation law legal_professional logic middle_school_history modern_chinese_history
        professional_tour_guide""",
    "Other": """accountant basic_medicine civil_servant clinical_medicine environmental_impact_assessment_engineer
        fire_engineer physician plant_protection sports_science tax_accountant urban_and_rural_planner""",
    "Hard": """advanced_mathematics college_chemistry college_physics discrete_mathematics high_school_chemistry
        high_school_mathematics high_school_physics probability_and_statistics""",
}
SUITES = {
    suite: {group: frozenset(names.split()) for group, names in groups.items()}
    for suite, groups in (("cmmlu", _CMMLU), ("ceval", _CEVAL))
}


def suite_of(subjects: Collection[str]) -> str:
    """Name of the exam that has all these subjects: cmmlu, ceval, world (every name ends in _zh or _en), or ""."""
    for suite, groups in SUITES.items():
        if subjects and set(subjects) <= frozenset().union(*groups.values()):
            return suite
    return "world" if subjects and all(s.endswith(("_zh", "_en")) for s in subjects) else ""


def groups_of(subject: str, suite: str) -> list[str]:
    """Groups that a subject counts in.

    In the closed world: two-hop or else its language, and "people" with both; arithmetic alone, it asks about nobody.
    """
    if suite in SUITES:
        return [group for group, names in SUITES[suite].items() if subject in names]
    if suite == "world":
        kind, _, language = subject.rpartition("_")
        return ["arith"] if kind == "arith" else ["people", "hop2" if kind == "hop2" else language]
    return []
